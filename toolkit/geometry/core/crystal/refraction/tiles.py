"""The period of an attention map, as the size of its tiles."""

from __future__ import annotations

from collections.abc import Sequence
from math import log

import torch
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.checking import require_finite

__all__ = ["suggest_tile_size"]

_SIGMAS = 4.0  # a correlation of m pairs of noise has the standard deviation 1 / sqrt m


def suggest_tile_size(attention: Tensor, sizes: Sequence[int] | None = None) -> int | None:
    """The period of an attention map, or None if it has none.

    Two profiles are looked at: the mean weight by distance between query and key (strided attention), and by key
    (columns that many queries attend to). The period is the first lag at which a profile repeats itself as well as
    anywhere, and better than noise does by four standard deviations.

    Args:
        attention: [n, n], weights of queries (rows) on keys, n >= 8.
        sizes: If given, the size nearest to the period on a logarithmic scale is returned in its stead.

    Raises:
        GeometryError: not square, too small, not finite, or sizes that are not positive.
    """
    if attention.ndim != 2 or attention.shape[0] != attention.shape[1] or attention.shape[0] < 8:
        raise GeometryError(f"an attention map of shape {tuple(attention.shape)}", hint="give [n, n] with n >= 8")
    if sizes is not None and (not sizes or min(sizes) < 1):
        raise GeometryError(f"tile sizes {tuple(sizes)}", hint="give positive sizes")
    require_finite(attention, "the attention map")
    n = attention.shape[0]
    weights = attention.double()
    by_lag = torch.stack([weights.diagonal(-lag).mean() for lag in range(1, n - n // 4)])
    found = [pair for profile in (by_lag, weights.mean(0)) if (pair := _period(profile)) is not None]
    if not found:
        return None
    period = max(found)[1]
    return period if sizes is None else min(sizes, key=lambda size: (abs(log(size / period)), size))


def _period(profile: Tensor) -> tuple[float, int] | None:
    """(correlation, lag) of the first clear repetition of a profile [n]."""
    centred = profile - profile.mean()
    if float(centred.abs().max()) <= 1e-9 * float(profile.abs().max()):
        return None
    scores = []
    for lag in range(2, len(centred) // 2 + 1):
        a, b = centred[:-lag], centred[lag:]
        score = float(a @ b / (a.norm() * b.norm()).clamp(min=1e-300))
        scores.append(score if score > _SIGMAS / len(a) ** 0.5 else 0.0)
    best = max(scores, default=0.0)
    if best == 0:
        return None
    peaks = [i for i, s in enumerate(scores) if s >= 0.9 * best and s >= max(scores[max(i - 1, 0) : i + 2])]
    return best, peaks[0] + 2
