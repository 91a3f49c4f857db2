"""Measures and plots that the geometry packages share."""
