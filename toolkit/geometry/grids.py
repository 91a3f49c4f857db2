"""Derivatives of sampled fields: spectral along periodic axes, of fourth order along the others."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.checking import require_finite
from toolkit.geometry.types import GridField

__all__ = ["grid_derivative", "grid_gradient"]

# Weights over twelve steps: at the first two samples of an axis and inside it (Fornberg 1988, table 3).
_EDGE = ((-25.0, 48.0, -36.0, 16.0, -3.0), (-3.0, -10.0, 18.0, -6.0, 1.0))
_INSIDE = (1.0, -8.0, 0.0, 8.0, -1.0)


def grid_derivative(field: GridField, axis: int, *, order: int = 1) -> Tensor:
    """A derivative of a sampled field along one axis of its grid, differentiable.

    Args:
        field: values [*S, *core], real.
        axis: Which axis of S.
        order: How often it is taken.

    Returns:
        [*S, *core]. Periodic axes: exact for what the grid resolves (the Nyquist mode of an even axis has derivative
        0). Others: error of fourth order in the spacing, up to the edge.

    Raises:
        GeometryError: a value is not finite, or an open axis has fewer than five samples.

    Source: Trefethen 2000, "Spectral Methods in MATLAB"; Fornberg 1988 for the weights.
    """
    values, n = require_finite(field.values, "the sampled field").movedim(axis, -1), field.values.shape[axis]
    if field.periodic[axis]:
        return _spectral(values, n * field.spacing[axis], order).movedim(-1, axis)
    if n < 5:
        raise GeometryError(f"an open grid axis has {n} samples", hint="fourth-order differences need five or more")
    slope = values.new_zeros(n, n)
    for row in range(n):
        if row in (0, 1):
            slope[row, :5] = values.new_tensor(_EDGE[row])
        elif row in (n - 2, n - 1):
            slope[row, -5:] = -values.new_tensor(_EDGE[n - 1 - row]).flip(0)
        else:
            slope[row, row - 2 : row + 3] = values.new_tensor(_INSIDE)
    step = slope.T / (12 * field.spacing[axis])
    for _ in range(order):
        values = values @ step
    return values.movedim(-1, axis)


def _spectral(values: Tensor, length: float, order: int) -> Tensor:
    n = values.shape[-1]
    frequency = torch.arange(n // 2 + 1, dtype=values.dtype) * (2 * math.pi / length)
    if n % 2 == 0:
        frequency[-1] = 0.0
    slope: Tensor = torch.fft.irfft(torch.fft.rfft(values) * (1j * frequency) ** order, n=n)
    return slope


def grid_gradient(field: GridField) -> Tensor:
    """All first derivatives, [*S, *core, d] with d the number of grid axes. See `grid_derivative`."""
    return torch.stack([grid_derivative(field, axis) for axis in range(len(field.spacing))], dim=-1)
