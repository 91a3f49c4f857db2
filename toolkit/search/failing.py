"""When a search gives up: evaluations that fail one after the other, in one way, will go on to."""

from __future__ import annotations

from toolkit.errors import SlimeError
from toolkit.search.trials import Evaluated, Result

__all__ = ["FailureStreak", "SearchStopped"]

_STREAK = 5


class SearchStopped(SlimeError):
    """Evaluations fail, one after the other, in the same way."""


class FailureStreak:
    """Failures of one kind without a success between them."""

    def __init__(self) -> None:
        self._kind, self._count = "", 0

    def broken(self) -> None:
        """Something succeeded."""
        self._kind, self._count = "", 0

    def told(self, outcome: Result) -> None:
        """Of one more evaluation.

        Raises:
            SearchStopped: it is the last of too many alike.
        """
        if isinstance(outcome, Evaluated):
            self.broken()
            return
        self._kind, self._count = outcome.kind, self._count + 1 if self._kind == outcome.kind else 1
        if self._count >= _STREAK:
            last = outcome.text.strip().splitlines()[-1:] or [outcome.kind]
            raise SearchStopped(
                f"{_STREAK} evaluations in a row failed as {outcome.kind}: {last[0]}",
                hint="mend what they have in common and resume: what was finished is kept",
            )
