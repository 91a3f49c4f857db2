"""The formulas of Riemannian geometry at one point or many, given a metric and its derivatives."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import jacfwd

from toolkit.geometry.linear import solve
from toolkit.geometry.types import Field

__all__ = ["christoffel", "christoffel_field", "ricci", "riemann", "riemann_field"]


def christoffel(metric: Tensor, slope: Tensor) -> Tensor:
    """Levi-Civita symbols [*B, l, i, j] of a metric g [*B, n, n] and its derivatives `slope[m, j, i]` = d_i g_mj."""
    lowered = 0.5 * (slope.mT + slope - slope.movedim(-1, -3))
    return solve(metric, lowered.flatten(-2)).reshape(lowered.shape)


def riemann(symbols: Tensor, slope: Tensor) -> Tensor:
    """R^l_ijk as [*B, l, i, j, k] of symbols G [*B, l, i, j] and their derivatives `slope[l, i, j, k]` = d_k G^l_ij."""
    half = slope.mT + torch.einsum("...ljm,...mik->...lijk", symbols, symbols)
    return half - half.mT


def ricci(curvature: Tensor) -> Tensor:
    """Ric_ij = R^l_ilj as [*B, i, j] of R [*B, l, i, j, k]."""
    return torch.einsum("...lilj->...ij", curvature)


def christoffel_field(metric: Field) -> Field:
    """The field [n] -> [n, n, n] of the symbols of a metric field [n] -> [n, n]."""

    def symbols(point: Tensor) -> Tensor:
        slope, g = jacfwd(_with_value(metric), has_aux=True)(point)
        return christoffel(g, slope)

    return symbols


def riemann_field(metric: Field) -> Field:
    """The field [n] -> [n, n, n, n] of R^l_ijk of a metric field."""

    def curvature(point: Tensor) -> Tensor:
        slope, symbols = jacfwd(_with_value(christoffel_field(metric)), has_aux=True)(point)
        return riemann(symbols, slope)

    return curvature


def _with_value(field: Field):  # type: ignore[no-untyped-def]  # what jacfwd(has_aux=True) wants
    def both(point: Tensor) -> tuple[Tensor, Tensor]:
        value = field(point)
        return value, value

    return both
