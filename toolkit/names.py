"""Names that files of ours use with a meaning of their own."""

__all__ = ["IN_MEMORY"]

IN_MEMORY = "(in memory)"
"""How a recipe names a model or data that only lived in the program that made it."""
