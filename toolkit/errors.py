"""The error family of `targets`, for code that imports `toolkit` alone."""

from targets.errors import InvalidInput, MissingDependency, ToolkitError, UnknownName, UsageError

__all__ = ["InvalidInput", "MissingDependency", "ToolkitError", "UnknownName", "UsageError"]
