"""What every executor does: take a trial, and give back what came of it."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Protocol

from toolkit.search.trials import Evaluate, Failure, Trial

__all__ = ["Executor", "guarded"]


class Executor(Protocol):
    """What a search runs its trials on. Results come back unchecked, with the id of their trial."""

    @property
    def slots(self) -> int:
        """Trials it takes at once."""

    def submit(self, evaluate: Evaluate, trial: Trial) -> None:
        """Begin a trial; there must be a free slot."""

    def wait(self, timeout_s: float | None = None) -> list[tuple[int, object]]:
        """What has finished, at least one; or nothing where that takes longer than `timeout_s`."""

    def close(self) -> None:
        """Let go of all workers, busy ones too."""


def guarded(evaluate: Callable[[Trial], object], trial: Trial) -> object:
    """What `evaluate` returns, or the failure that it raised."""
    try:
        return evaluate(trial)
    except Exception as error:
        return Failure(type(error).__name__, "".join(traceback.format_exception(error)))
