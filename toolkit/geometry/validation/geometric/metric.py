"""Checks of a metric: is it one, does a connection keep it, how curved is it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import jacfwd

from toolkit.errors import GeometryError
from toolkit.geometry.checking import require_finite, require_square
from toolkit.geometry.core.patterns.riemannian import Curvature, RiemannianManifold
from toolkit.geometry.core.patterns.riemannian.manifold import over_points
from toolkit.geometry.types import CheckReport, Field
from toolkit.rng import torch_generator

__all__ = ["check_curvature_bounds", "check_positive_definite", "verify_compatibility"]


def check_positive_definite(metric: Tensor, tol: float = 1e-10) -> CheckReport:
    """Whether matrices [*B, n, n] are symmetric within `tol` and have no eigenvalue of `tol` or less.

    `value` is the smallest eigenvalue, `limit` is `tol`; detail: "asymmetry", and "cholesky", whether each of the
    matrices factors.

    Raises:
        GeometryError: they are not square or not finite.
    """
    require_square(metric, "the metric")
    asymmetry = float((metric - metric.mT).abs().max())
    factors = torch.linalg.cholesky_ex(metric).info == 0
    smallest = float(torch.linalg.eigvalsh(0.5 * (metric + metric.mT)).min())
    ok = asymmetry <= tol and bool(factors.all()) and smallest > tol
    return CheckReport(ok, smallest, tol, {"asymmetry": asymmetry, "cholesky": factors})


def verify_compatibility(metric: Field, connection: Field, at: Tensor, tol: float = 1e-9) -> CheckReport:
    """Whether parallel transport keeps lengths: max |d_k g_ij - G^l_ki g_lj - G^l_kj g_il| <= tol at points [M, n].

    detail: "torsion", the largest |G^l_ij - G^l_ji|, which decides nothing here, and "at", the worst point.
    """
    g = RiemannianManifold(metric, at.shape[-1]).at(at)
    slope = over_points(jacfwd(metric), at).movedim(-1, -3)  # [k, i, j] = d_k g_ij
    symbols = require_finite(over_points(connection, at), "a symbol of the connection")
    lowered = torch.einsum("...lki,...lj->...kij", symbols, g)
    worst = (slope - lowered - lowered.mT).abs().flatten(at.ndim - 1).amax(-1)
    value = float(worst.max())
    torsion = float((symbols - symbols.mT).abs().max())
    return CheckReport(
        value <= tol, value, tol, {"torsion": torsion, "at": at.reshape(-1, at.shape[-1])[worst.argmax()]}
    )


def check_curvature_bounds(metric: Field, at: Tensor, bounds: tuple[float, float], *, tol: float = 1e-9, seed: int = 0,
                           starts: int = 8) -> CheckReport:  # fmt: skip
    """Whether the sectional curvatures at points [M, n] lie in [lo, hi].

    On surfaces there is one at a point. Otherwise the extremes are sought from `starts` random planes by exchanging
    one vector at a time for the best (each exchange is an eigenvalue problem), and enclosed by the extreme
    eigenvalues of the curvature operator: `detail["enclosure"]` holds the rigorous range, `detail["found"]` the range
    seen. The check passes on what was found; `detail["proved"]` says whether the enclosure fits as well.

    `value` is how far a curvature exceeds the bounds (negative: room left), `limit` is `tol`.

    Raises:
        GeometryError: the bounds are no interval, the dimension is 1, or the metric is singular or indefinite.
    """
    low, high = bounds
    n = at.shape[-1]
    if not low <= high or n < 2:
        raise GeometryError(f"bounds {bounds} in dimension {n}", hint="give lo <= hi, and at least two dimensions")
    curvature = RiemannianManifold(metric, n).curvature_tensor(at)
    flat = Curvature(curvature.metric.reshape(-1, n, n), curvature.riemann.reshape(-1, n, n, n, n))
    lower, info = torch.linalg.cholesky_ex(flat.metric)
    if bool((info != 0).any()):
        raise GeometryError("the metric is indefinite at a point", hint="sectional bounds need lengths")
    frame = torch.linalg.inv(lower).mT  # columns are orthonormal vectors
    orthonormal = torch.einsum("xlijk,xla,xib,xjc,xkd->xabcd", flat.lowered, frame, frame, frame, frame)
    if n == 2:
        found = orthonormal[:, 0, 1, 0, 1]
        enclosure = (float(found.min()), float(found.max()))
        seen = enclosure
    else:
        i, j = torch.triu_indices(n, n, 1)
        operator = orthonormal[:, i, j][:, :, i, j]
        values = torch.linalg.eigvalsh(0.5 * (operator + operator.mT))
        enclosure = (float(values[:, 0].min()), float(values[:, -1].max()))
        seen = tuple(_extreme(orthonormal, sign, seed, starts) for sign in (-1, 1))  # type: ignore[assignment]
    excess = max(low - seen[0], seen[1] - high)
    proved = low - tol <= enclosure[0] and enclosure[1] <= high + tol
    return CheckReport(excess <= tol, excess, tol, {"found": seen, "enclosure": enclosure, "proved": proved})


def _extreme(orthonormal: Tensor, sign: int, seed: int, starts: int) -> float:
    """The least (sign -1) or largest (+1) sectional curvature that alternating exchange finds."""
    points, n = orthonormal.shape[:2]
    generator = torch_generator(seed, "planes")
    u = torch.randn(starts, points, n, generator=generator, dtype=torch.float64).to(orthonormal.dtype)
    best = torch.zeros(starts, points, dtype=orthonormal.dtype)
    for _ in range(50):
        u = u / u.norm(dim=-1, keepdim=True)
        jacobi = torch.einsum("xabcd,sxa,sxc->sxbd", orthonormal, u, u) * sign
        jacobi = 0.5 * (jacobi + jacobi.mT)
        away = 1.0 + 2 * jacobi.abs().sum((-2, -1), keepdim=True)  # u itself, an eigenvector of 0, is never the best
        values, vectors = torch.linalg.eigh(jacobi - away * u[..., :, None] * u[..., None, :])
        settled = bool(((values[..., -1] - best).abs() <= 1e-14 * (1 + best.abs())).all())
        u, best = vectors[..., -1], values[..., -1]
        if settled:
            break
    return sign * float(best.max())
