"""No workers: the search waits for each evaluation."""

from __future__ import annotations

from toolkit.search.executors.interface import guarded
from toolkit.search.trials import Evaluate, Trial

__all__ = ["Here"]


class Here:
    """One trial at a time, in this thread and without a limit of time."""

    slots = 1

    def __init__(self) -> None:
        self._next: tuple[Evaluate, Trial] | None = None

    def submit(self, evaluate: Evaluate, trial: Trial) -> None:
        """Keep it for `wait`."""
        self._next = (evaluate, trial)

    def wait(self, timeout_s: float | None = None) -> list[tuple[int, object]]:
        """Evaluate it, however long that takes."""
        if self._next is None:
            return []
        (evaluate, trial), self._next = self._next, None
        return [(trial.id, guarded(evaluate, trial))]

    def close(self) -> None:
        """There is nothing to close."""
