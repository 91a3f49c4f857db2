"""Checks of metrics and of flows."""
