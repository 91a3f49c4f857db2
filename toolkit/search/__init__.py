"""Searching deployments and components: an archive that keeps the best of every kind. Imports no torch."""
