"""Scaled stacks beside published rows. See `__main__.py`."""
