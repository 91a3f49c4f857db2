"""Easy samples first: batches are drawn from the easiest share of the data, which grows to all of them.

When a curriculum is t done (0 to 1), the easiest c(t) = min(1, (t (1 - c0^p) + c0^p)^(1/p)) of the samples may be
drawn, each as likely as the others; p = 2 gives every sample about as long to be seen when it is new. From t = 1 on
each epoch is every sample once, at random.

Source: Platanios et al. 2019, arXiv:1903.09848 (equation 7).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from passes.context import Batch
from passes.dataset import UNASKED, Array
from passes.torch_level.capture import flatten
from targets.errors import InvalidInput

__all__ = ["Curriculum", "competence", "difficulty_by_length", "difficulty_by_loss"]


def competence(done: float, start: float, power: float = 2.0) -> float:
    """Share of the samples that may be drawn when `done` of the curriculum is over; `start` at the beginning."""
    grown = done * (1 - start**power) + start**power
    return float(min(1.0, grown ** (1 / power)))


@dataclass(frozen=True, eq=False, kw_only=True)
class Curriculum:
    """Implements `toolkit.training.sampling.Sampling`.

    Args:
        difficulty: (samples,) any scale, larger is harder; equals keep their order.
        epochs: Until every sample may be drawn.
        start: Share of the samples that the first batch may be drawn from; at least one sample is.
        power: p above.

    Raises:
        InvalidInput: a difficulty is not a number, or a setting means nothing.
    """

    difficulty: Array
    epochs: int
    start: float = 0.1
    power: float = 2.0

    def __post_init__(self) -> None:
        if self.difficulty.ndim != 1 or not len(self.difficulty) or not np.isfinite(self.difficulty).all():
            raise InvalidInput(
                f"difficulties of shape {self.difficulty.shape} cannot be put in order",
                hint="give one finite number for each sample",
            )
        if self.epochs < 1 or not 0 < self.start <= 1 or self.power <= 0:
            raise InvalidInput(
                f"a curriculum of {self.epochs} epochs from a share of {self.start:g} means nothing",
                hint="at least one epoch, a share above 0 and up to 1, a power above 0",
            )

    @property
    def key(self) -> str:
        """See `Sampling`."""
        state = hashlib.sha256(np.ascontiguousarray(self.difficulty, np.float64).tobytes()).hexdigest()
        return f"curriculum {state} {self.epochs} {self.start!r} {self.power!r}"

    def draw(self, epoch: int, count: int, rng: np.random.Generator) -> Array:
        """See `Sampling`."""
        if count != len(self.difficulty):
            raise InvalidInput(
                f"there are {count} samples and {len(self.difficulty)} difficulties", hint="give one for each sample"
            )
        if epoch >= self.epochs:
            return rng.permutation(count)
        easiest = np.argsort(self.difficulty, kind="stable")
        places = (epoch + np.arange(count) / count) / self.epochs
        open_to = np.array([self.available(done, count) for done in places])
        drawn: Array = easiest[(rng.random(count) * open_to).astype(np.int64)]
        return drawn

    def available(self, done: float, count: int) -> int:
        """How many of `count` samples may be drawn: never none."""
        return min(count, max(1, ceil(count * competence(done, self.start, self.power))))


def difficulty_by_loss(model: nn.Module, batches: Iterable[Batch]) -> Array:
    """(samples,) cross entropy of each sample's labels under `model`, its mean over those asked where there are many.

    Source: Hacohen and Weinshall 2019, arXiv:1904.03626 (a network that was trained before says what is hard).
    """
    was_training = model.training
    model.eval()
    with torch.no_grad():
        parts = [_losses(model, batch) for batch in batches]
    model.train(was_training)
    found: Array = torch.cat(parts).double().cpu().numpy()
    return found


def _losses(model: nn.Module, batch: Batch) -> Tensor:
    inputs, labels = batch
    if labels is None:
        raise InvalidInput("without labels no sample is harder than another", hint="give data with labels")
    answer = flatten(model(*inputs.values()))[0]
    each = cross_entropy(answer.reshape(labels.numel(), -1), labels.flatten(), reduction="none")
    asked = (labels != UNASKED).reshape(len(labels), -1).sum(1).clamp(min=1)
    return each.reshape(len(labels), -1).sum(1) / asked


def difficulty_by_length(lengths: Array) -> Array:
    """(samples,) of (samples,) lengths: longer is harder."""
    return np.asarray(lengths, np.float64)
