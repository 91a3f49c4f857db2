"""Training recipes for the zoo."""
