"""How far rounding moves the activations of a layer, in the layer's own metric, and whether its range holds them."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, log2

import torch
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.checking import require_finite

__all__ = ["RangeUse", "displacement"]


def displacement(before: Tensor, after: Tensor) -> float:
    """How far feature vectors [n, C] move from `before` to `after`, in standard deviations of `before`.

    The root mean square of sqrt(d^T G d / C) over rows, with the metric G = S^-1 of the covariance S: a step counts by
    how much the layer itself varies in its direction. S is drawn towards a sphere of the same trace by the weight
    C / (n + C), as though C more vectors had been seen that know no direction, so that G exists for any n.

    0 where nothing moved, infinite where a layer that never varies did.

    Raises:
        GeometryError: the shapes differ, fewer than two rows, or a value that is not finite.

    Source: Mahalanobis 1936; shrinkage: Ledoit & Wolf 2004.
    """
    if before.shape != after.shape or before.ndim != 2 or len(before) < 2:
        raise GeometryError(
            f"feature vectors of shapes {tuple(before.shape)} and {tuple(after.shape)}", hint="two equal [n >= 2, C]"
        )
    own = require_finite(before, "the feature vectors").double()
    moved = require_finite(after, "the moved feature vectors").double() - own
    if not bool(moved.any()):
        return 0.0
    count, width = own.shape
    centred = own - own.mean(0)
    spread = float(centred.square().mean())
    if spread <= (count * torch.finfo(own.dtype).eps * float(own.abs().max())) ** 2:
        return inf
    weight = width / (count + width)
    covariance = (1 - weight) * centred.T @ centred / count
    covariance.diagonal().add_(weight * spread)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), moved.T, upper=False)
    return float(white.square().mean().sqrt())


@dataclass
class RangeUse:
    """What values did to the range [low, high] that integers of one `step` store; sums over all that was added.

    Args:
        low, high: The least and largest value that can be stored.
        step: Between two neighbouring stored values.
        folded: Whether a bound at 0 or at 6 is a rectifier that the quantizer left to the integers, not a range.
    """

    low: float
    high: float
    step: float
    folded: bool = False
    values: int = 0
    clipped: int = 0
    excess_power: float = 0.0
    seen_low: float = inf
    seen_high: float = -inf

    def __post_init__(self) -> None:
        if not self.low < self.high < inf or not 0 < self.step < inf:
            raise GeometryError(
                f"a range from {self.low} to {self.high} in steps of {self.step}", hint="low < high, step > 0, finite"
            )

    def add(self, values: Tensor) -> None:
        """Count `values`, of any shape."""
        flat = require_finite(values, "the activation").flatten().double()
        if self.folded:
            flat = self._rectified(flat)
        over = (flat - self.high).clamp(min=0) + (self.low - flat).clamp(min=0)
        out = over > self.step / 2  # what rounds to the last step was stored
        self.values += flat.numel()
        self.clipped += int(out.sum())
        self.excess_power += float(over[out].square().sum())
        self.seen_low = min(self.seen_low, float(flat.min()))
        self.seen_high = max(self.seen_high, float(flat.max()))

    def _rectified(self, values: Tensor) -> Tensor:
        """The values as the bounds that stand for ReLU and ReLU6 leave them."""
        half = self.step / 2
        low = 0.0 if abs(self.low) < half else -inf
        high = 6.0 if abs(self.high - 6.0) < half else inf
        return values.clamp(low, high)

    @property
    def clipped_share(self) -> float:
        """Of the values, those that lie outside the range."""
        return self.clipped / max(self.values, 1)

    @property
    def lost_bits(self) -> float:
        """By how many bits a range that holds all that was seen would be better; 0 where it would not.

        Values inside lose step^2 / 12 on average, those outside their excess. A range k times as wide has k times the
        step, so half the binary logarithm of (clipping + rounding) / (k^2 rounding) is what was lost.
        """
        if not self.clipped:
            return 0.0
        rounding = self.step**2 / 12
        needed = max(self.seen_high, self.high) - min(self.seen_low, self.low)
        wider = needed / (self.high - self.low)
        noise = self.excess_power / self.values + rounding
        return max(0.5 * log2(noise / (wider**2 * rounding)), 0.0)
