"""The error family of `targets`, for code that imports `toolkit` alone, and what archives and geometry add to it."""

from targets.errors import InvalidInput, MissingDependency, ToolkitError, UnknownName, UsageError

__all__ = [
    "ArchiveFormatError",
    "BudgetExceeded",
    "DescriptorError",
    "GeometryError",
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


class GeometryError(InvalidInput, ValueError):
    """Numbers that describe no such object: a singular metric, an observable that is not Hermitian, an empty lattice.

    Args:
        problem: What is wrong, with the offending value in it.
        hint: What to do next.
    """
