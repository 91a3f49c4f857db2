"""The geometry library beside the best plain forms of torch. See `__main__.py`."""
