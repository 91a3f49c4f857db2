"""What a measure says beyond the ones before it: residuals of least squares, spread evenly by their own quantiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from toolkit.errors import DescriptorError
from toolkit.search.measures import Floats

__all__ = ["Axis", "fit_axes"]

_KNOTS = 257
_NOISE = 0.01
"""A fit that explains less of the variance is left out."""

_TAIL = 0.005
"""Share of an axis kept at each end for residuals beyond those that were fitted."""


@dataclass(frozen=True)
class Axis:
    """Places of one measure with those before it taken out.

    residual = place - offset - weights . earlier places; its quantile is the piecewise linear, strictly rising map from
    `knots` to `levels`. Given the earlier axes it can be undone.

    Args:
        offset: Of the least squares fit.
        weights: (axes before this one,).
        knots: (k,) rising residuals.
        levels: (k,) rising from 0 to 1.
    """

    offset: float
    weights: tuple[float, ...]
    knots: tuple[float, ...]
    levels: tuple[float, ...]

    def quantile(self, place: Floats, earlier: Floats) -> Floats:
        """(n,) in [0, 1] of places (n,) and the places (n, axes before) of the earlier measures."""
        residual = place - self.offset - earlier @ np.asarray(self.weights)
        level: Floats = np.interp(residual, self.knots, self.levels)
        return level

    def place(self, quantile: Floats, earlier: Floats) -> Floats:
        """The inverse of `quantile`."""
        residual = np.interp(quantile, self.levels, self.knots)
        placed: Floats = residual + self.offset + earlier @ np.asarray(self.weights)
        return placed

    @property
    def spread(self) -> float:
        """5 to 95 % range of the residuals, in places: what this axis resolves before it is stretched."""
        low, high = np.interp((0.05, 0.95), self.levels, self.knots)
        return float(high - low)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"offset": self.offset, "weights": list(self.weights), "knots": list(self.knots),
                "levels": list(self.levels)}  # fmt: skip

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Axis:
        """From JSON."""
        return cls(float(data["offset"]), tuple(data["weights"]), tuple(data["knots"]), tuple(data["levels"]))


def fit_axes(places: Floats, names: Sequence[str], *, decorrelate: bool = True) -> tuple[Axis, ...]:
    """One axis a column of `places` (n, m), in the order of the columns.

    Raises:
        DescriptorError: a column is constant, or nothing of it is left beyond the earlier ones.
    """
    return tuple(_fit(places[:, k], places[:, :k], names[k], decorrelate) for k in range(places.shape[1]))


def _fit(place: Floats, earlier: Floats, name: str, decorrelate: bool) -> Axis:
    count, before = earlier.shape
    solution = np.zeros(before + 1)
    if decorrelate:
        solution = np.linalg.lstsq(np.column_stack([np.ones(count), earlier]), place, rcond=None)[0]
    residual = place - solution[0] - earlier @ solution[1:]
    if np.var(residual) > (1 - _NOISE) * np.var(place):  # chance: it would only tell equal values apart
        solution[1:], solution[0] = 0.0, 0.0
        residual = place
    if np.ptp(residual) <= 1e-9:
        what = "is constant" if np.ptp(place) <= 1e-9 else "follows from the measures before it"
        raise DescriptorError(f"measure {name!r} {what} in {count} samples", hint="leave it out: drop_constant=True")
    knots, levels = _distribution(residual)
    return Axis(float(solution[0]), tuple(solution[1:].tolist()), tuple(knots.tolist()), tuple(levels.tolist()))


def _distribution(residual: Floats) -> tuple[Floats, Floats]:
    """Knots of the cumulative distribution; equal residuals share the middle of their ranks."""
    values, counts = np.unique(residual, return_counts=True)
    ranks = (np.cumsum(counts) - counts / 2) / len(residual)
    if len(values) > _KNOTS:
        chosen = np.unique(np.searchsorted(ranks, np.linspace(ranks[0], ranks[-1], _KNOTS)).clip(max=len(values) - 1))
        values, ranks = values[chosen], ranks[chosen]
    inside = _TAIL + (1 - 2 * _TAIL) * (ranks - ranks[0]) / (ranks[-1] - ranks[0])
    width = values[-1] - values[0]
    knots = np.concatenate([[values[0] - width], values, [values[-1] + width]])
    return knots, np.concatenate([[0.0], inside, [1.0]])
