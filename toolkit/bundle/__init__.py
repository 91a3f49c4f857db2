"""A bundle: a folder that can be checked, run and shipped on its own."""
