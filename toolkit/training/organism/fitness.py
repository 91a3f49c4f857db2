"""What a component is worth: by how much the loss rises without it, less what it costs.

fitness = (loss without it - loss with it) - price x cost, in nats. The first term is leave-one-out on a probe batch
that is not trained on, with and without on the same samples; the cost is in seconds on the chosen target, the price in
nats a second. Gradients are no part of it: a component's share of them is an axis of the archive, and what sorts an
archive may not be the merit within it as well (`check_apart`). How they rank components is in A6 of the ablations.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from targets.errors import InvalidInput

__all__ = ["INPUTS", "Price", "check_apart", "leave_one_out", "rank_correlation", "rotated", "silenced"]

INPUTS = ("leave_one_out", "latency_s")
"""What a fitness is made of."""


@contextmanager
def silenced(gate: Tensor) -> Iterator[None]:
    """A block in which a component's gate is 0; its bits are put back."""
    kept = gate.detach().clone()
    with torch.no_grad():
        gate.zero_()
    try:
        yield
    finally:
        with torch.no_grad():
            gate.copy_(kept)


def leave_one_out(loss: Callable[[], float], gates: Mapping[str, Tensor], wanted: Collection[str]) -> dict[str, float]:
    """By how much `loss()` rises with each of `wanted` silenced, in its unit; 0 for one whose gate is 0 already.

    Args:
        loss: Of the whole model on one probe; called once for the whole and once for each of `wanted`.
        gates: Of all components, by id.
    """
    whole = loss()
    found = {}
    for name in sorted(wanted):
        with silenced(gates[name]):
            found[name] = loss() - whole
    return found


def rotated(names: Sequence[str], turn: int, most: int) -> tuple[str, ...]:
    """At most `most` of `names` (sorted), others at each turn, so that all have had theirs after a round."""
    ordered = sorted(names)
    if len(ordered) <= most:
        return tuple(ordered)
    start = turn * most % len(ordered)
    return tuple((ordered * 2)[start : start + most])


@dataclass
class Price:
    """Nats that a second of latency costs: raised while the model is slower than wanted, lowered while it is faster.

    Args:
        wanted_s: Latency to come to; None keeps the price as it is.
        value: Nats a second; 0 asks for accuracy alone.
        rate: Nats a second that a latency of twice the wanted one adds at each turn.
    """

    wanted_s: float | None = None
    value: float = 0.0
    rate: float = 1.0

    def __post_init__(self) -> None:
        if self.value < 0 or self.rate <= 0 or (self.wanted_s is not None and self.wanted_s <= 0):
            raise InvalidInput(
                f"a price of {self.value} nats/s that moves by {self.rate} to reach {self.wanted_s} s",
                hint="value from 0, rate and wanted latency above 0",
            )

    def follow(self, latency_s: float) -> float:
        """Take one turn with the model at `latency_s`; the price after it."""
        if self.wanted_s is not None:
            self.value = max(0.0, self.value + self.rate * (latency_s - self.wanted_s) / self.wanted_s)
        return self.value


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's; 0 for fewer than three values, or where one side is constant."""
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    found = float(spearmanr(a, b).statistic)
    return found if isfinite(found) else 0.0


def check_apart(inputs: Collection[str], axes: Collection[str]) -> None:
    """Hold what a fitness is made of against the axes of an archive: shared, good elites would fill one end of it.

    Raises:
        InvalidInput: one is both.
    """
    if shared := sorted(set(inputs) & set(axes)):
        raise InvalidInput(
            f"{', '.join(shared)} is both part of the fitness and an axis of the archive",
            hint="leave it out of one of them",
        )
