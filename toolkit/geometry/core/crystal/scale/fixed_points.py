"""Where a map of couplings stands still, and how it moves near by."""

from __future__ import annotations

from dataclasses import dataclass
from math import log
from typing import Literal

import torch
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.core.crystal.scale.renormalization import RGFlow
from toolkit.geometry.types import Field

__all__ = ["FixedPoint", "Kind", "fixed_points"]

Kind = Literal["relevant", "marginal", "irrelevant"]
_MARGINAL = 1e-6  # |y| below it counts as 0: eigenvalues of a converged Newton step are good to about 1e-8


@dataclass(frozen=True)
class FixedPoint:
    """A fixed point of a coupling map.

    Args:
        position: [n].
        eigenvalues: Complex [n] of the Jacobian, largest modulus first.
        eigenvectors: Complex [n, n], as columns.
        exponents: Real [n]: y = ln |lambda| / ln b, or minus the eigenvalue's real part for a beta function.
        kinds: For each exponent whether it grows on large scales.
    """

    position: Tensor
    eigenvalues: Tensor
    eigenvectors: Tensor
    exponents: Tensor
    kinds: tuple[Kind, ...]

    @property
    def marginal_directions(self) -> Tensor:
        """The eigenvectors that neither grow nor shrink, complex [n, m]: combinations that scale leaves alone."""
        return self.eigenvectors[:, [kind == "marginal" for kind in self.kinds]]


def fixed_points(flow: RGFlow | Field, starts: Tensor, *, tolerance: float = 1e-10) -> list[FixedPoint]:
    """Fixed points that Newton's method reaches from `starts`, without repeats, in the order of their coordinates.

    Args:
        flow: A flow: solutions of map(K) = K. Or a beta function dK / d ln mu towards short distances: its zeros.
        starts: [S, n], where to begin.
        tolerance: Of the residual, relative to 1 + |K|.

    Returns:
        Possibly none: a start from which Newton's method does not converge is left out.

    Raises:
        GeometryError: starts of another shape, or not finite.

    Source: Goldenfeld 1992, chapter 9; Cardy 1996, Scaling and Renormalization in Statistical Physics, chapter 3.
    """
    if starts.ndim != 2 or not bool(starts.isfinite().all()):
        raise GeometryError(f"starts of shape {tuple(starts.shape)}", hint="give finite [S, n]")
    found: list[Tensor] = []
    for start in starts:
        point = _newton(_residual(flow), start, tolerance)
        if point is not None and all(
            float((point - other).norm()) > 1e-6 * (1 + float(point.norm())) for other in found
        ):
            found.append(point)
    found.sort(key=lambda point: point.tolist())
    return [_analyse(flow, point) for point in found]


def _residual(flow: RGFlow | Field) -> Field:
    if isinstance(flow, RGFlow):
        step = flow.map
        return lambda k: step(k) - k
    return flow


def _newton(residual: Field, start: Tensor, tolerance: float) -> Tensor | None:
    point = start
    for _ in range(100):
        value = residual(point)
        if not bool(value.isfinite().all()):
            return None
        slope = torch.func.jacrev(residual)(point)
        if float(value.norm()) <= tolerance * (1 + float(point.norm())) and bool(slope.isfinite().all()):
            step = torch.linalg.lstsq(slope, value.unsqueeze(-1), driver="gelsd").solution.squeeze(-1)
            polished = point - step  # one more, which squares what is left; not where the slope is singular
            better = residual(polished)
            return polished if bool((better.norm() <= value.norm()).all()) else point
        if not bool(slope.isfinite().all()):
            return None
        step = torch.linalg.lstsq(slope, value.unsqueeze(-1), driver="gelsd").solution.squeeze(-1)
        longest = 1 + float(point.norm())
        point = point - step * min(1.0, longest / max(float(step.norm()), 1e-300))
    return None


def _analyse(flow: RGFlow | Field, point: Tensor) -> FixedPoint:
    jacobian = torch.func.jacrev(flow.map if isinstance(flow, RGFlow) else flow)(point)
    values, vectors = torch.linalg.eig(jacobian)
    order = values.abs().argsort(descending=True, stable=True)
    values, vectors = values[order], vectors[:, order]
    exponents = values.abs().log() / log(flow.scale) if isinstance(flow, RGFlow) else -values.real
    kinds: list[Kind] = [
        "marginal" if abs(y) < _MARGINAL else "relevant" if y > 0 else "irrelevant" for y in exponents.tolist()
    ]
    return FixedPoint(point, values, vectors, exponents, tuple(kinds))
