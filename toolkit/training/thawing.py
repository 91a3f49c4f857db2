"""Which parameters of a model learn in which epoch."""

from __future__ import annotations

from typing import Protocol

from torch import nn

__all__ = ["Thaw"]


class Thaw(Protocol):
    """Freezes and unfreezes parts of a model from epoch to epoch."""

    @property
    def key(self) -> str:
        """Everything that decides it; part of the key of a training."""

    def apply(self, model: nn.Module, epoch: int) -> None:
        """Set what learns in `epoch`, counted from 0; called when it begins, with the model in training mode."""
