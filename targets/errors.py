"""The error family: what happened, what to do next, and the exit code that says which kind it was."""

from collections.abc import Collection
from difflib import get_close_matches

__all__ = ["InvalidInput", "MissingDependency", "ToolkitError", "UnknownName", "UsageError"]


class ToolkitError(Exception):
    """A failure the user can act on. Anything else that escapes is a bug.

    Args:
        problem: What happened, in one line.
        hint: What to do next. Required: an error without a way out is not finished.
    """

    exit_code = 70

    def __init__(self, problem: str, *, hint: str) -> None:
        super().__init__(problem)
        self.problem, self.hint = problem, hint


class UsageError(ToolkitError):
    """The command or call cannot mean anything: wrong flag, wrong combination."""

    exit_code = 2


class UnknownName(UsageError):
    """A name that is looked up in a registry and is not there."""

    def __init__(self, kind: str, name: str, known: Collection[str]) -> None:
        near = get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(known)) or 'none'}"
        super().__init__(f"unknown {kind} {name!r}", hint=hint)


class MissingDependency(ToolkitError):
    """A library, program or device that this step needs is not here."""

    exit_code = 3


class InvalidInput(ToolkitError):
    """A file, model or data set that cannot be read, is damaged, or is not allowed."""

    exit_code = 5
