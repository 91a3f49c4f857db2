"""Who may change a model between its steps: a protocol that is handed to the trainer.

A watcher is told and changes nothing; a tender adds and takes away parts of the model, and decides whether a step whose
loss or gradient is not finite ends the training or is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

__all__ = ["Tender", "Tending"]

T = TypeVar("T")


class Tending(Protocol):
    """One training under care."""

    def allows(self, step: int, loss: float) -> bool:
        """Told the loss of a step; whether its gradient is to be taken. False leaves the step out."""

    def relieved(self, step: int, run: Callable[[], T]) -> T:
        """`run()`, which computes a gradient and changes no weight. Where memory runs out in it, parts may go, and it
        is run once more."""

    def spoiled(self, step: int) -> None:
        """Told that the gradient of a step is not finite: its update is left out."""

    def stepped(self, step: int) -> None:
        """Called after each step, taken or left out: parts may come and go, with their parameters in the optimizer."""

    def state(self) -> dict[str, Any]:
        """For a checkpoint: tensors, numbers, texts, lists and dicts."""

    def load(self, state: Mapping[str, Any]) -> None:
        """From a checkpoint, after the model was loaded and before the optimizer is."""


class Tender(Protocol):
    """Takes care of trainings."""

    @property
    def key(self) -> str:
        """All that decides what it does; part of the key of a training."""

    def tend(self, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> Tending:
        """Care for `model`, which `optimizer` trains for `steps` steps."""
