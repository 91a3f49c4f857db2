"""How many directions the activations of a layer really use."""

from __future__ import annotations

import torch
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.checking import require_finite

__all__ = ["effective_dimension", "positions", "rows_of"]


def positions(count: int, most: int) -> Tensor:
    """At most `most` of the numbers 0 to `count` - 1, evenly spread, [n] int64: the same ones for every sample."""
    if count < 1 or most < 1:
        raise GeometryError(f"{most} of {count} positions", hint="at least one of at least one")
    return torch.linspace(0, count - 1, min(count, most)).round().long()


def rows_of(activation: Tensor, most: int, *, channel: int = 1) -> Tensor:
    """Feature vectors [n, C] of an activation, at most `most` of each sample.

    Args:
        activation: [N, ...] with its features along the axis `channel`; every other place of a sample is a vector.

    Raises:
        GeometryError: fewer than two axes, or a value that is not finite.
    """
    if activation.ndim < 2:
        raise GeometryError(f"an activation of shape {tuple(activation.shape)}", hint="give a batch axis first")
    require_finite(activation, "the activation")
    places = activation.movedim(channel, -1).flatten(1, -2) if activation.ndim > 2 else activation[:, None]
    return places[:, positions(places.shape[1], most)].flatten(0, 1)


def effective_dimension(rows: Tensor) -> float:
    """(tr S)^2 / tr S^2 of the covariance S of feature vectors [n, C]: between 1 and min(n - 1, C), 0 if all are equal.

    Rounding of the mean is no direction: deviations below its bound count as none.

    Raises:
        GeometryError: fewer than two rows, or a value that is not finite.

    Source: Gao et al. 2017, "A theory of multineuronal dimensionality, dynamics and measurement".
    """
    from kernels.effective_rank import effective_rank

    if rows.ndim != 2 or len(rows) < 2:
        raise GeometryError(f"feature vectors of shape {tuple(rows.shape)}", hint="give two or more, [n >= 2, C]")
    values = require_finite(rows, "the feature vectors").double()
    centred = values - values.mean(0)
    rounding = len(values) * torch.finfo(torch.float64).eps * float(values.abs().max())
    if not float(centred.abs().max()) > rounding:
        return 0.0
    return float(effective_rank(centred, kind="participation"))
