"""Which samples an epoch learns from, and in which order, where that is not all of them at random."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from passes.dataset import Array

__all__ = ["Sampling"]


class Sampling(Protocol):
    """Draws the samples of an epoch. Epochs keep their length, so that rates and checkpoints go by the same steps."""

    @property
    def key(self) -> str:
        """Everything that decides the draws; part of the key of a training."""

    def draw(self, epoch: int, count: int, rng: np.random.Generator) -> Array:
        """(count,) numbers of samples, each from 0 to below `count`; the same one may come again.

        Args:
            epoch: From 0 on.
            count: Samples that there are.
            rng: Of this epoch; the same after a resume.
        """
