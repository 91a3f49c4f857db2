"""The error family of `targets`, for code that imports `toolkit` alone, and what archives add to it."""

from targets.errors import InvalidInput, MissingDependency, ToolkitError, UnknownName, UsageError

__all__ = [
    "ArchiveFormatError",
    "BudgetExceeded",
    "DescriptorError",
    "InvalidInput",
    "MissingDependency",
    "SlimeError",
    "ToolkitError",
    "UnknownName",
    "UsageError",
]


class SlimeError(ToolkitError):
    """A failure of the archive, the search or the organism."""

    exit_code = 5


class DescriptorError(SlimeError, InvalidInput):
    """A measure that is not finite, or that says nothing."""


class ArchiveFormatError(SlimeError, InvalidInput):
    """An archive of another version, damaged, or of another space."""


class BudgetExceeded(SlimeError):
    """What was asked for does not fit into the memory or disk that was granted. Nothing was changed."""
