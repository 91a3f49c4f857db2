"""The version of this tree; pyproject.toml reads it too."""

__all__ = ["__version__"]

__version__ = "0.1.0"
