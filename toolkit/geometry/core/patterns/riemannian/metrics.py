"""Ready-made metrics: each function returns a field [n] -> [n, n] for `RiemannianManifold`.

Source of the closed forms: Lee 2018, "Introduction to Riemannian Manifolds", chapter 3; Hamilton 1988 for the cigar;
Kobayashi & Nomizu 1969, IX.7, for the Fubini-Study metric.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import jacfwd

from toolkit.errors import GeometryError
from toolkit.geometry.types import Field

__all__ = [
    "cigar",
    "conformal",
    "euclidean",
    "fubini_study",
    "hyperbolic_ball",
    "hyperbolic_half_space",
    "product",
    "pull_back",
    "schwarzschild",
    "sphere",
    "sphere_embedding",
    "surface_of_revolution",
    "torus_of_revolution",
]


def euclidean(n: int) -> Field:
    """The flat metric of R^n."""
    return lambda point: torch.eye(n, dtype=point.dtype, device=point.device)


def sphere(radius: float = 1.0) -> Field:
    """S^n in angles, all but the last in (0, pi): r^2 (dt_1^2 + sin^2 t_1 (dt_2^2 + sin^2 t_2 (...)))."""

    def metric(point: Tensor) -> Tensor:
        sines = torch.cat([torch.ones_like(point[:1]), point[:-1].sin().square().cumprod(0)])
        return radius**2 * torch.diag(sines)

    return metric


def sphere_embedding(radius: float = 1.0) -> Field:
    """The points of R^(n+1) with the angles of `sphere`: (cos t_1, sin t_1 cos t_2, ..., sin t_1 ... sin t_n) r."""

    def point_of(angles: Tensor) -> Tensor:
        sines = torch.cat([torch.ones_like(angles[:1]), angles.sin().cumprod(0)])
        return radius * sines * torch.cat([angles.cos(), torch.ones_like(angles[:1])])

    return point_of


def hyperbolic_half_space() -> Field:
    """Curvature -1 on x_n > 0: the flat metric over x_n^2."""
    return lambda point: torch.eye(len(point), dtype=point.dtype) / point[-1].square()


def hyperbolic_ball() -> Field:
    """Curvature -1 on |x| < 1: four times the flat metric over (1 - |x|^2)^2."""
    return lambda point: torch.eye(len(point), dtype=point.dtype) * 4 / (1 - point.square().sum()).square()


def torus_of_revolution(major: float, minor: float) -> Field:
    """(u, v) on a torus in R^3: minor^2 du^2 + (major + minor cos u)^2 dv^2, with major > minor > 0."""
    if not major > minor > 0:
        raise GeometryError(f"a torus with radii {major} and {minor}", hint="the major radius exceeds the minor one")

    def profile(u: Tensor) -> Tensor:
        return torch.stack([major + minor * u.cos(), minor * u.sin()])

    return surface_of_revolution(profile)


def surface_of_revolution(profile: Field) -> Field:
    """(u, v) on the surface of a curve u -> (r, z) turned round the z axis: |profile'|^2 du^2 + r^2 dv^2.

    Args:
        profile: [] -> [2], differentiable, with r > 0.
    """

    def metric(point: Tensor) -> Tensor:
        slope = jacfwd(profile)(point[0])
        return torch.diag(torch.stack([slope.square().sum(), profile(point[0])[0].square()]))

    return metric


def cigar() -> Field:
    """Hamilton's soliton on the plane, (dx^2 + dy^2) / (1 + x^2 + y^2), of Gauss curvature 2 / (1 + x^2 + y^2)."""
    return lambda point: torch.eye(2, dtype=point.dtype) / (1 + point.square().sum())


def fubini_study() -> Field:
    """CP^m in affine coordinates (Re z, Im z) of R^2m, scaled to sectional curvatures in [1, 4].

    Re of ((1 + |z|^2) |dz|^2 - |conj(z) . dz|^2) / (1 + |z|^2)^2.
    """

    def metric(point: Tensor) -> Tensor:
        x, y = point.chunk(2)
        size = 1 + point.square().sum()
        real = torch.cat([x, y])  # Re and Im of conj(z) . dz are linear in (dx, dy)
        imaginary = torch.cat([-y, x])
        overlap = torch.outer(real, real) + torch.outer(imaginary, imaginary)
        return (size * torch.eye(len(point), dtype=point.dtype) - overlap) / size.square()

    return metric


def schwarzschild(mass: float) -> Field:
    """Space-time outside a mass in (t, r, theta, phi), signature (-, +, +, +), for r > 2 mass: Ricci-flat."""

    def metric(point: Tensor) -> Tensor:
        r, theta = point[1], point[2]
        fall = 1 - 2 * mass / r
        return torch.diag(torch.stack([-fall, 1 / fall, r.square(), (r * theta.sin()).square()]))

    return metric


def product(first: Field, first_dim: int, second: Field) -> Field:
    """The product of two manifolds; the first `first_dim` coordinates are those of the first."""

    def metric(point: Tensor) -> Tensor:
        blocks = first(point[:first_dim]), second(point[first_dim:])
        joined: Tensor = torch.block_diag(*blocks)  # type: ignore[no-untyped-call]
        return joined

    return metric


def conformal(base: Field, log_factor: Field) -> Field:
    """e^(2u) times a metric, u: [n] -> []."""
    return lambda point: (2 * log_factor(point)).exp() * base(point)


def pull_back(metric: Field, mapping: Field) -> Field:
    """The metric that makes `mapping` [m] -> [n] an isometry onto its image; of an embedding, the induced metric."""

    def pulled(point: Tensor) -> Tensor:
        slope = jacfwd(mapping)(point)
        result: Tensor = slope.T @ metric(mapping(point)) @ slope
        return result

    return pulled
