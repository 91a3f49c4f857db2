"""A stack's costs from the user's own measurements: rows are read, or measured here, and the stack is fitted anew."""
