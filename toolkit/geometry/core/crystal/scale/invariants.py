"""Exponents that do not change with scale, each with the error of its fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.checking import require_finite

__all__ = ["Exponent", "box_dimension", "fit_exponent", "hurst_exponent", "scale_invariants", "tail_exponent"]


class Exponent(NamedTuple):
    """A scaling exponent and its standard error; points of a fit on one path are not independent, so it is a floor."""

    value: float
    error: float


def scale_invariants(x: Tensor) -> dict[str, Exponent]:
    """What can be said of `x` across scales: "box_dimension" of a bool grid; "hurst" and "tail" of a series [n].

    Raises:
        GeometryError: neither a bool grid nor a real series, or an exponent that cannot be fitted.
    """
    if x.dtype == torch.bool:
        return {"box_dimension": box_dimension(x)}
    if x.ndim != 1:
        raise GeometryError(f"{x.dtype} of shape {tuple(x.shape)}", hint="give a bool grid, or a series [n] of steps")
    return {"hurst": hurst_exponent(x), "tail": tail_exponent(x)}


def box_dimension(occupied: Tensor, *, base: int | None = None) -> Exponent:
    """The box-counting dimension of a grid: the slope of the logarithm of occupied boxes against that of their number.

    Args:
        occupied: bool [n, ...], of equal sides.
        base: Boxes grow by this factor, which must divide n more than once; the smallest that does if not given.

    Raises:
        GeometryError: an empty grid, unequal sides, or sides with fewer than two box sizes.

    Source: Falconer 2003, Fractal Geometry, chapter 3.
    """
    n = occupied.shape[0] if occupied.ndim else 0
    if occupied.dtype != torch.bool or not n or any(side != n for side in occupied.shape):
        raise GeometryError(f"{occupied.dtype} of shape {tuple(occupied.shape)}", hint="give a bool cube [n, n, ...]")
    if not bool(occupied.any()):
        raise GeometryError("no cell of the grid is occupied", hint="an empty set has no dimension")
    factor = base or next((b for b in range(2, n + 1) if n % (b * b) == 0), 0)
    if factor < 2 or n % (factor * factor):
        raise GeometryError(f"a side of {n} with boxes growing by {factor}", hint="pad to a power of 2 or 3")
    sizes, counts, size = [], [], 1
    while size < n and n % size == 0:
        full = occupied
        for axis in range(occupied.ndim):
            full = full.unflatten(axis, (n // size, size)).any(dim=axis + 1)  # type: ignore[no-untyped-call]
        sizes.append(n / size)
        counts.append(int(full.sum()))
        size *= factor
    return fit_exponent(sizes, [float(c) for c in counts])


def hurst_exponent(steps: Tensor, *, windows: Sequence[int] | None = None) -> Exponent:
    """H of the path whose increments are `steps` [n], by detrended fluctuation analysis: 1/2 for independent steps.

    Args:
        steps: At least 128 of them.
        windows: Lengths of the pieces that are detrended by a line; twelve from 16 to n / 8 if not given.

    Raises:
        GeometryError: too few steps, constant steps, or windows outside 4 to n / 2.

    Source: Peng et al. 1994, Phys. Rev. E 49, 1685.
    """
    n = steps.numel()
    if steps.ndim != 1 or n < 128:
        raise GeometryError(f"steps of shape {tuple(steps.shape)}", hint="give a series of at least 128")
    centred = require_finite(steps, "the steps").double() - steps.double().mean()
    if float(centred.abs().max()) <= 1e-12 * max(float(steps.abs().max()), 1e-300):
        raise GeometryError("all steps are equal", hint="a constant drift has no fluctuation to scale")
    sizes = sorted(set(windows or torch.logspace(4, float(torch.log2(torch.tensor(n / 8))), 12, base=2).int().tolist()))
    if len(sizes) < 2 or sizes[0] < 4 or sizes[-1] > n // 2:
        raise GeometryError(f"windows {sizes} for {n} steps", hint="at least two lengths from 4 to half the steps")
    path = centred.cumsum(0)
    fluctuations = []
    for size in sizes:
        pieces = path[: n // size * size].reshape(-1, size)
        line = torch.stack([torch.ones(size, dtype=path.dtype), torch.linspace(-1, 1, size, dtype=path.dtype)])
        frame = torch.linalg.qr(line.T).Q
        fluctuations.append(float((pieces - pieces @ frame @ frame.T).square().mean().sqrt()))
    return fit_exponent([float(s) for s in sizes], fluctuations)


def tail_exponent(x: Tensor, *, share: float = 0.05) -> Exponent:
    """alpha of a tail P(|X| > t) ~ t^-alpha, by Hill's estimator on the largest `share` of |x| [n].

    Raises:
        GeometryError: fewer than ten values in the tail, or a tail of equal values.

    Source: Hill 1975, Ann. Stat. 3, 1163; its error is alpha / sqrt k.
    """
    sizes = require_finite(x, "the values").double().abs().flatten().sort(descending=True).values
    k = int(share * len(sizes))
    if k < 10 or k >= len(sizes) or float(sizes[k]) <= 0:
        raise GeometryError(f"a tail of {k} out of {len(sizes)} values", hint="at least ten above a positive value")
    mean = float((sizes[:k] / sizes[k]).log().mean())
    if mean <= 0:
        raise GeometryError("all values of the tail are equal", hint="they follow no power law")
    return Exponent(1 / mean, 1 / (mean * k**0.5))


def fit_exponent(sizes: Sequence[float], values: Sequence[float]) -> Exponent:
    """The slope of ln values against ln sizes by least squares, with its standard error; both positive, two or more."""
    x = torch.tensor(sizes, dtype=torch.float64).log()
    y = torch.tensor(values, dtype=torch.float64).log()
    dx = x - x.mean()
    slope = float(dx @ y / (dx @ dx))
    left = y - y.mean() - slope * dx
    freedom = max(len(sizes) - 2, 1)
    return Exponent(slope, float((left @ left / freedom / (dx @ dx)).sqrt()))
