"""Quadratic potentials in closed form: each normal mode is an oscillator, a free or falling particle, or a barrier."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, pi, sqrt

import torch
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.checking import require_finite
from toolkit.geometry.types import Field
from toolkit.rng import numpy_generator

__all__ = ["Modes", "euclidean_kernel", "kernel", "modes", "partition_function"]

_FLAT = 1e-12  # of the largest curvature: below, a mode counts as free
_CAUSTIC = 1e-9  # distance of omega T from n pi, in radians, inside which the kernel's digits are gone


@dataclass(frozen=True)
class Modes:
    """V(x) = floor + sum_k (force_k y_k + curvature_k y_k^2 / 2) with y = axes^T x.

    Args:
        axes: [n, n], orthogonal.
        curvature: [n]; m omega^2 of an oscillator, 0 of a free mode, negative at the top of a barrier.
        force: [n], the slope at the origin.
        floor: The value at the origin.
        mass: Of the particle.
        hbar: The unit of action.
    """

    axes: Tensor
    curvature: Tensor
    force: Tensor
    floor: float
    mass: float
    hbar: float


def modes(potential: Field, dimension: int, mass: float, hbar: float) -> Modes | None:
    """The normal modes, or None where the second derivative is not the same at the origin and seven other points."""
    scattered = numpy_generator(0, "quadratic potential").normal(scale=2.0, size=(7, dimension))
    points = torch.cat([torch.zeros(1, dimension, dtype=torch.float64), torch.from_numpy(scattered)])
    hessians = torch.vmap(torch.func.hessian(potential))(points)
    if not bool(hessians.isfinite().all()):
        return None
    size = float(hessians.abs().max())
    if float((hessians - hessians[0]).abs().max()) > 1e-9 * size:
        return None
    curvature, axes = torch.linalg.eigh(hessians[0])
    curvature = torch.where(curvature.abs() > _FLAT * size, curvature, 0.0)
    slope = require_finite(torch.func.grad(potential)(points[0]), "the slope of the potential")
    return Modes(axes, curvature, axes.T @ slope, float(potential(points[0])), mass, hbar)


def kernel(found: Modes, a: Tensor, b: Tensor, time: float) -> Tensor:
    """The real-time propagator, complex [*B] for a and b [*B, n]."""
    start, end = _in_modes(found, a), _in_modes(found, b)
    m, hbar = found.mass, found.hbar
    phase = torch.full(start.shape[:-1], -found.floor * time / hbar, dtype=start.dtype, device=start.device)
    size = 1.0
    for k, (curvature, force) in enumerate(zip(found.curvature.tolist(), found.force.tolist(), strict=True)):
        x, y = start[..., k], end[..., k]
        if curvature == 0:
            action = m * (x - y).square() / (2 * time) - force * time * (x + y) / 2 - force**2 * time**3 / (24 * m)
            size, maslov = size * sqrt(m / (2 * pi * hbar * time)), -pi / 4
        else:
            omega = sqrt(abs(curvature) / m)
            x, y, lift = x + force / curvature, y + force / curvature, force**2 / (2 * curvature)
            turns = omega * time if curvature > 0 else 0.0
            if curvature > 0 and abs(turns - pi * round(turns / pi)) < _CAUSTIC * max(turns, 1.0):
                raise GeometryError(
                    f"omega T = {turns:.9g} is a caustic, {round(turns / pi)} times pi",
                    hint="all paths meet again there: choose another time",
                )
            angle = torch.tensor(omega * time, dtype=torch.float64)
            sine, cosine = (angle.sin(), angle.cos()) if curvature > 0 else (angle.sinh(), angle.cosh())
            s, c = float(sine), float(cosine)
            action = m * omega / (2 * s) * ((x.square() + y.square()) * c - 2 * x * y) + lift * time
            size, maslov = size * sqrt(m * omega / (2 * pi * hbar * abs(s))), -pi / 4 - floor(turns / pi) * pi / 2
        phase = phase + action / hbar + maslov
    return torch.polar(torch.full_like(phase, size), phase)


def euclidean_kernel(found: Modes, a: Tensor, b: Tensor, time: float) -> Tensor:
    """The imaginary-time propagator, real [*B] for a and b [*B, n]; no mode may be a barrier beyond half its period."""
    start, end = _in_modes(found, a), _in_modes(found, b)
    m, hbar = found.mass, found.hbar
    exponent = torch.full(start.shape[:-1], -found.floor * time / hbar, dtype=start.dtype, device=start.device)
    size = 1.0
    for k, (curvature, force) in enumerate(zip(found.curvature.tolist(), found.force.tolist(), strict=True)):
        x, y = start[..., k], end[..., k]
        if curvature == 0:
            action = m * (x - y).square() / (2 * time) + force * time * (x + y) / 2 - force**2 * time**3 / (24 * m)
            size *= sqrt(m / (2 * pi * hbar * time))
        else:
            omega = sqrt(abs(curvature) / m)
            x, y, drop = x + force / curvature, y + force / curvature, -(force**2) / (2 * curvature)
            if curvature < 0 and omega * time >= pi:
                raise GeometryError(
                    f"a barrier with omega T = {omega * time:.6g} >= pi: the Euclidean kernel diverges",
                    hint="bound the potential or take a shorter time",
                )
            angle = torch.tensor(omega * time, dtype=torch.float64)
            s = float(angle.sinh() if curvature > 0 else angle.sin())
            cotangent = float(1 / angle.tanh() if curvature > 0 else 1 / angle.tan())
            # (x^2 + y^2) coth - 2xy / sinh as it stands overflows for long times only where the kernel is 0
            action = m * omega / 2 * ((x.square() + y.square()) * cotangent - 2 * x * y / s) + drop * time
            size *= sqrt(m * omega / (2 * pi * hbar * s))
        exponent = exponent - action / hbar
    return require_finite(size * exponent.exp(), "the Euclidean propagator")


def partition_function(found: Modes, beta: float) -> Tensor:
    """The product of 1 / (2 sinh(beta hbar omega / 2)), with the shift of the minimum; [].

    Raises:
        GeometryError: a mode is not bound.
    """
    lowest = float(found.curvature.min())
    if lowest <= 0:
        raise GeometryError(
            f"the potential has the curvature {lowest:.3g}: the particle is not bound and Z diverges",
            hint="put it into a well",
        )
    omega = (found.curvature / found.mass).sqrt()
    bottom = found.floor - float((found.force.square() / (2 * found.curvature)).sum())
    half = beta * found.hbar * omega / 2
    logarithm = -(half + torch.log1p(-torch.exp(-2 * half))).sum() - beta * bottom  # of 1 / (2 sinh), no overflow
    return require_finite(logarithm.exp(), "the partition function")


def _in_modes(found: Modes, x: Tensor) -> Tensor:
    require_finite(x, "an end of the path")
    if x.ndim < 1 or x.shape[-1] != len(found.curvature):
        raise GeometryError(
            f"a point of shape {tuple(x.shape)} in dimension {len(found.curvature)}",
            hint=f"give [*B, {len(found.curvature)}]",
        )
    return x @ found.axes.to(x.dtype)
