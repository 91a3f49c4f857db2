"""One step of an ordinary differential equation dy/dt = f(y), for fields of any shape."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from toolkit.errors import GeometryError

__all__ = ["implicit_midpoint_step", "rk4_step"]


def rk4_step(slope: Callable[[Tensor], Tensor], y: Tensor, dt: float | Tensor) -> Tensor:
    """The classical Runge-Kutta step of fourth order, [*S] -> [*S]. Source: Kutta 1901."""
    k1 = slope(y)
    k2 = slope(y + dt / 2 * k1)
    k3 = slope(y + dt / 2 * k2)
    k4 = slope(y + dt * k3)
    return y + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


def implicit_midpoint_step(slope: Callable[[Tensor], Tensor], y: Tensor, dt: float | Tensor) -> Tensor:
    """The implicit midpoint rule y' = y + dt f((y + y')/2), [*S] -> [*S]: order two, symplectic, reversible.

    Solved by fixed-point iteration until the update is rounding, then twice more, so that derivatives taken through
    the iteration have settled as well.

    Raises:
        GeometryError: 100 iterations did not settle; the message holds the last update.

    Source: Hairer, Lubich & Wanner 2006, "Geometric Numerical Integration", II.1.
    """
    middle, left, update = y, 100, float("inf")
    while left:
        previous, middle = middle, y + dt / 2 * slope(middle)
        update = float((middle - previous).detach().abs().max())
        settled = update <= 4 * torch.finfo(y.dtype).eps * (1.0 + float(middle.detach().abs().max()))
        left = min(left - 1, 2) if settled else left - 1
        if not settled and left == 0:
            raise GeometryError(
                f"the implicit midpoint rule did not settle: its last update was {update:.3g}", hint="take a smaller dt"
            )
    return 2 * middle - y
