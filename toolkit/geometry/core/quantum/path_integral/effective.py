"""Effective actions: by loops, by the Legendre transform itself, and functional determinants."""

from __future__ import annotations

from collections.abc import Callable
from math import log, pi

import torch
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.checking import require_finite
from toolkit.geometry.types import Field

__all__ = [
    "effective_action",
    "functional_determinant_ratio",
    "legendre_effective_action",
    "one_loop_correction",
]


_STRONGEST = 1e6  # |J| that is searched


def effective_action(action: Field, field: Tensor, *, loops: int = 1, hbar: float = 1.0) -> Tensor:
    """Gamma at `field` [n], by loops; [] and differentiable.

    loops 0   S
    loops 1   + hbar / 2 ln det S''
    loops 2   + hbar^2 (S'''' / (8 S''^2) - S'''^2 / (12 S''^3)), for one component

    The measure is d phi / sqrt(2 pi hbar), for which these hold without a constant.

    Raises:
        GeometryError: S'' is not positive at `field`, or the loops are not 0, 1, or 2 with n = 1.

    Source: Zinn-Justin 2002, Quantum Field Theory and Critical Phenomena, chapter 7.
    """
    if field.ndim != 1 or loops not in (0, 1, 2) or (loops == 2 and len(field) != 1):
        raise GeometryError(
            f"{loops} loops for a field of shape {tuple(field.shape)}", hint="[n] and 0 or 1; 2 for n = 1"
        )
    gamma = action(field)
    if loops >= 1:
        gamma = gamma + one_loop_correction(action, field, hbar)
    if loops == 2:
        derivatives = [_line(action)]
        for _ in range(4):
            derivatives.append(torch.func.grad(derivatives[-1]))
        second, third, fourth = (d(field[0]) for d in derivatives[2:])
        gamma = gamma + hbar**2 * (fourth / (8 * second**2) - third**2 / (12 * second**3))
    return require_finite(gamma, "the effective action")


def one_loop_correction(action: Field, field: Tensor, hbar: float) -> Tensor:
    """hbar / 2 ln det S'' at `field` [n], [].

    Raises:
        GeometryError: S'' is not positive definite there.
    """
    hessian = torch.func.hessian(action)(field)
    factor, info = torch.linalg.cholesky_ex(hessian)
    if int(info):
        lowest = float(torch.linalg.eigvalsh(hessian.detach())[0])
        raise GeometryError(
            f"the second derivative of the action has the eigenvalue {lowest:.3g}",
            hint="loops expand around a minimum: the field must lie in a convex part",
        )
    value: Tensor = hbar * factor.diagonal().log().sum()
    return value


def legendre_effective_action(
    action: Field, phi: Tensor, *, hbar: float = 1.0, low: float = -12.0, high: float = 12.0, points: int = 4001
) -> Tensor:
    """Gamma(phi) = sup_J (J phi - W(J)) of one variable, exact to quadrature; convex in phi.

    W(J) = hbar ln integral d x / sqrt(2 pi hbar) exp((J x - S(x)) / hbar), by the trapezoid rule on [low, high], and
    J by Newton's method with W'' from the second moment.

    Args:
        action: [1] -> [].
        phi: [*B].
        hbar: The unit of action.
        low: Where the integral starts.
        high: Where it ends.
        points: Of the quadrature.

    Returns:
        [*B].

    Raises:
        GeometryError: phi lies outside the range, the integrand does not vanish at its ends, or no source up to 1e6
            holds the field.
    """
    x = torch.linspace(low, high, points, dtype=torch.float64)
    heights = require_finite(torch.vmap(action)(x.unsqueeze(-1)), "the action")
    flat = phi.reshape(-1, 1).to(torch.float64)
    if not bool(((flat > low) & (flat < high)).all()):
        raise GeometryError(f"a field outside [{low}, {high}]", hint="widen the range of the integral")
    lower, upper = torch.full_like(flat, -_STRONGEST), torch.full_like(flat, _STRONGEST)
    force = torch.zeros_like(flat)
    weight = torch.zeros_like(heights)
    for _ in range(200):  # Newton, kept in a bracket that halves whenever a step leaves it
        weight = torch.softmax((force * x - heights) / hbar, dim=-1)
        mean = (weight * x).sum(-1, keepdim=True)
        spread = (weight * (x - mean).square()).sum(-1, keepdim=True) / hbar
        lower, upper = torch.where(mean < flat, force, lower), torch.where(mean > flat, force, upper)
        step = force + (flat - mean) / spread.clamp(min=1e-300)
        following = torch.where((step > lower) & (step < upper), step, (lower + upper) / 2)
        if bool(((following - force).abs() <= 1e-15 * force.abs().clamp(min=1.0)).all()):
            break
        force = following
    missed = float(((weight * x).sum(-1, keepdim=True) - flat).abs().max())
    if missed > 1e-9 * (high - low):
        raise GeometryError(
            f"no source within {_STRONGEST:.0e} holds the field: it is missed by {missed:.3g}",
            hint="rescale the field, or stay where the action is less steep",
        )
    ends = float(torch.maximum(weight[..., 0], weight[..., -1]).max() / weight.max())
    if ends > 1e-12:
        raise GeometryError(
            f"the integrand at the end of the range is {ends:.3g} of its maximum", hint="widen the range"
        )
    spacing = (high - low) / (points - 1)
    w = hbar * (torch.logsumexp((force * x - heights) / hbar, dim=-1) + log(spacing) - 0.5 * log(2 * pi * hbar))
    return (force.squeeze(-1) * flat.squeeze(-1) - w).reshape(phi.shape)


def functional_determinant_ratio(curvature: Callable[[float], float], time: float, *, steps: int = 1000) -> float:
    """det(-d^2/dt^2 + curvature(t)) / det(-d^2/dt^2) on [0, T] with fixed ends, by an initial value problem.

    The solution of y'' = curvature y with y(0) = 0, y'(0) = 1, over T: no determinant is formed. For the constant
    -omega^2 this is sin(omega T) / (omega T). Runge-Kutta of order 4.

    Raises:
        GeometryError: T <= 0, no step, or a solution that is not finite.

    Source: Gelfand and Yaglom 1960, J. Math. Phys. 1, 48.
    """
    if not time > 0 or steps < 1:
        raise GeometryError(f"{steps} steps over the time {time}", hint="time is > 0, with at least one step")
    h, y, v = time / steps, 0.0, 1.0
    for i in range(steps):
        start, middle, end = curvature(i * h), curvature((i + 0.5) * h), curvature((i + 1) * h)
        k1, l1 = v, start * y
        k2, l2 = v + h / 2 * l1, middle * (y + h / 2 * k1)
        k3, l3 = v + h / 2 * l2, middle * (y + h / 2 * k2)
        k4, l4 = v + h * l3, end * (y + h * k3)
        y, v = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), v + h / 6 * (l1 + 2 * l2 + 2 * l3 + l4)
    ratio = y / time
    if ratio - ratio != 0:
        raise GeometryError(f"the determinant ratio is {ratio}", hint="the curvature must be finite on [0, T]")
    return ratio


def _line(action: Field) -> Callable[[Tensor], Tensor]:
    return lambda x: action(x.reshape(1))
