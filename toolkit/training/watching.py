"""Who is told what happens in a training: a protocol that is handed in, and never anything global."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

from torch import nn

__all__ = ["Epoch", "Unwatched", "Watcher"]


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """One epoch, as it ended.

    Args:
        number: Epochs done; 0 is told before the first one, where something judges.
        loss: Mean of the losses trained on, in the unit of the loss; None before the first epoch.
        metric, judged_loss: Means over the samples that judge; None where nothing does. The metric is 0 without one.
        rate: The learning rate of the last step.
    """

    number: int
    loss: float | None = None
    metric: float | None = None
    judged_loss: float | None = None
    rate: float | None = None


class Watcher(Protocol):
    """What a trainer tells. It must change neither the model nor torch's generators."""

    def step(self, epoch: int, position: int, samples: int) -> AbstractContextManager[None]:
        """Entered around each step: loss, gradient and update from `samples` samples."""

    def epoch(self, epoch: Epoch, model: nn.Module) -> None:
        """Called after each epoch, with the model in eval mode."""

    def finished(self, history: Sequence[Epoch]) -> None:
        """Called once at the end with every epoch, those before an interruption too."""


class Unwatched:
    """Nobody; and a base for those who want one of the calls."""

    def step(self, epoch: int, position: int, samples: int) -> AbstractContextManager[None]:
        """See `Watcher`."""
        return nullcontext()

    def epoch(self, epoch: Epoch, model: nn.Module) -> None:
        """See `Watcher`."""

    def finished(self, history: Sequence[Epoch]) -> None:
        """See `Watcher`."""
