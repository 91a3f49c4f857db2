"""Period doubling as renormalisation: the universal function and its two constants."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.core.crystal.scale.fixed_points import fixed_points
from toolkit.geometry.core.crystal.scale.renormalization import RGFlow

__all__ = ["doubling_operator", "feigenbaum_constants"]


def doubling_operator(count: int) -> Callable[[Tensor], Tensor]:
    """g -> alpha g(g(x / alpha)) with alpha = 1 / g(1), on even functions g = 1 + sum c_i x^(2i), i = 1 .. count.

    Returns:
        [count] -> [count]: the image is interpolated at the `count` Chebyshev points of (0, 1) in x^2.

    Source: Feigenbaum 1978, J. Stat. Phys. 19, 25.
    """
    if count < 2:
        raise GeometryError(f"{count} coefficients", hint="at least two")
    angles = (torch.arange(count, dtype=torch.float64) + 0.5) * (torch.pi / count)
    squares = (1 + angles.cos()) / 2
    powers = torch.arange(1, count + 1, dtype=torch.float64)
    fit = torch.linalg.inv(squares.unsqueeze(1) ** powers)

    def apply(c: Tensor) -> Tensor:
        def g(square: Tensor) -> Tensor:
            return 1 + (square.unsqueeze(-1) ** powers.to(c.dtype)) @ c

        alpha = 1 / (1 + c.sum())
        inner = g(squares.to(c.dtype) / alpha.square())
        value: Tensor = fit.to(c.dtype) @ (alpha * g(inner.square()) - 1)
        return value

    return apply


def feigenbaum_constants(count: int = 9) -> tuple[float, float]:
    """(alpha, delta): the scale of the universal function and the leading eigenvalue of the doubling operator there.

    Nine coefficients give alpha = -2.502907875 and delta = 4.669201609; more are not told apart in float64.

    Raises:
        GeometryError: fewer than two coefficients, or Newton's method does not converge.
    """
    operator = doubling_operator(count)
    start = torch.zeros(count, dtype=torch.float64)
    start[:2] = torch.tensor([-1.5276, 0.1048])  # the fixed point of a fit with few coefficients
    found = fixed_points(RGFlow(operator, start.unsqueeze(0), 2.0), start.unsqueeze(0), tolerance=1e-9)
    if not found:
        raise GeometryError(
            f"no universal function with {count} coefficients",
            hint="take 2 to 9: more powers are not told apart in float64",
        )
    return 1 / (1 + float(found[0].position.sum())), float(found[0].eigenvalues[0].real)
