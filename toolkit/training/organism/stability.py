"""What watches over the loss: a gate that closes when it jumps or is no number, and a temperature that falls.

Gradients are clipped by the shared trainer (`precision.Precision.clipped`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import exp, isfinite
from statistics import median
from typing import Any

import torch
from torch import Tensor

from targets.errors import InvalidInput

__all__ = ["Annealing", "LossGate", "Smoothed", "finite_check", "spread"]

_NORMAL = 1.4826
"""Median absolute deviation of a normal distribution times this is its standard deviation."""

_FEWEST = 20
"""Losses before a jump can be told from the scatter."""

_LEAST_SPREAD = 1e-3
"""Of the mean: where the loss hardly moves any more, scatter below this is no jump."""


def spread(values: Iterable[float]) -> float:
    """Scatter of values by their median absolute deviation, on the scale of a standard deviation; 0 of none."""
    held = list(values)
    if not held:
        return 0.0
    middle = median(held)
    return _NORMAL * median(abs(value - middle) for value in held)


def finite_check(tensors: Iterable[Tensor]) -> bool:
    """Whether all of them are finite; one look at the device."""
    sums = [tensor.detach().abs().max() for tensor in tensors if tensor.numel()]
    return bool(torch.isfinite(torch.stack(sums)).all()) if sums else True


@dataclass
class Smoothed:
    """An exponential mean without the bias of its start: of a constant it is that constant from the first on.

    Source: Kingma and Ba 2015, arXiv:1412.6980 (section 3).
    """

    decay: float
    total: float = 0.0
    weight: float = 0.0

    def add(self, value: float) -> float:
        """Take `value` in; the mean after it."""
        self.total = self.decay * self.total + (1 - self.decay) * value
        self.weight = self.decay * self.weight + (1 - self.decay)
        return self.value

    @property
    def value(self) -> float:
        """The mean; 0 before the first value."""
        return self.total / self.weight if self.weight else 0.0


class LossGate:
    """Closed while the loss is not to be trusted: nobody is born, dies or is archived, and fading stands still.

    A loss closes the gate that is not finite, lies more than `deviations` spreads above its mean, or more than `ratio`
    times above it. It opens again after `cooldown` good losses in a row.

    Args:
        deviations: In units of `spread` over the last `window` losses.
        ratio: For losses without bound; a cross entropy never gets there.
        cooldown: Steps.
        decay: Of the mean. What is above the limit enters as the limit, so that one jump does not move it far, and a
            level that has risen for good is learnt.
    """

    def __init__(
        self, *, deviations: float = 6.0, ratio: float = 10.0, cooldown: int = 200, decay: float = 0.99,
        window: int = 200,
    ) -> None:  # fmt: skip
        if deviations <= 0 or ratio <= 1 or cooldown < 1 or not 0 < decay < 1 or window < _FEWEST:
            raise InvalidInput(
                f"no gate: {deviations} deviations, ratio {ratio}, cooldown {cooldown}, decay {decay}, {window} losses",
                hint=f"deviations above 0, ratio above 1, cooldown from 1, decay within 0 and 1, window from {_FEWEST}",
            )
        self.deviations, self.ratio, self.cooldown = deviations, ratio, cooldown
        self._mean = Smoothed(decay)
        self._recent: deque[float] = deque(maxlen=window)
        self._still = 0
        """Good steps that are still wanted."""
        self.closings = 0

    @property
    def is_open(self) -> bool:
        """Whether births, deaths and archive writes may happen."""
        return self._still == 0

    @property
    def limit(self) -> float:
        """The largest loss that is good; infinite before there are enough to say."""
        if len(self._recent) < _FEWEST:
            return float("inf")
        mean = self._mean.value
        by_spread = mean + self.deviations * max(spread(self._recent), _LEAST_SPREAD * abs(mean))
        return min(by_spread, self.ratio * mean) if mean > 0 else by_spread

    def see(self, loss: float) -> bool:
        """Take a step's loss in; whether it was good."""
        limit = self.limit
        is_good = isfinite(loss) and loss <= limit
        if isfinite(loss):
            entered = min(loss, limit)
            self._mean.add(entered)
            self._recent.append(entered)
        if not is_good:
            self.closings += self.is_open
            self._still = self.cooldown
        elif self._still:
            self._still -= 1
        return is_good

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"total": self._mean.total, "weight": self._mean.weight, "recent": list(self._recent),
                "still": self._still, "closings": self.closings}  # fmt: skip

    def load(self, state: Mapping[str, Any]) -> None:
        """From a checkpoint."""
        self._mean.total, self._mean.weight = state["total"], state["weight"]
        self._recent.clear()
        self._recent.extend(state["recent"])
        self._still, self.closings = state["still"], state["closings"]


@dataclass(frozen=True, kw_only=True)
class Annealing:
    """How readily what is worse is accepted: a temperature that falls on a straight line to a floor above 0.

    Args:
        start, floor: Temperatures, without unit: what is compared is scaled before.
        steps: After which the line would reach 0.

    Source: Kirkpatrick, Gelatt, Vecchi 1983, Science 220, 671-680.
    """

    start: float = 1.0
    floor: float = 0.01
    steps: int

    def __post_init__(self) -> None:
        if not 0 < self.floor <= self.start or self.steps < 1:
            raise InvalidInput(
                f"no annealing from {self.start} to {self.floor} in {self.steps} steps",
                hint="floor above 0 and at most start, steps from 1",
            )

    def temperature(self, step: int) -> float:
        """At `step`; never 0."""
        return max(self.floor, self.start * (1 - step / self.steps))

    def acceptance(self, shortfall: float, step: int) -> float:
        """Probability of taking what falls short by `shortfall` scales; 1 where it does not."""
        return 1.0 if shortfall <= 0 else exp(-shortfall / self.temperature(step))
