"""Predicted memory beside what runtimes really take. See `__main__.py`."""
