"""The metrics that Ricci flow can move: products of space forms, conformal factors, sampled metrics."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.checking import require_finite, require_nondegenerate
from toolkit.geometry.core.patterns.riemannian import tensors
from toolkit.geometry.grids import grid_derivative, grid_gradient
from toolkit.geometry.types import GridField

__all__ = ["ConformalMetric", "FlowMetric", "SpaceForms", "grid_curvature", "sphere_volume"]


def sphere_volume(n: int) -> float:
    """The volume of the unit sphere of dimension n."""
    return 2 * math.pow(math.pi, (n + 1) / 2) / math.gamma((n + 1) / 2)


@dataclass(frozen=True)
class SpaceForms:
    """A product of spheres, flat spaces and hyperbolic spaces, each with its radius.

    Args:
        dims: The dimension n_i of each factor.
        signs: +1, 0 or -1: the sign of its curvature, which is sign / r_i^2.
        squares: [F], r_i^2 > 0: the metric is sum r_i^2 g_i with g_i of curvature +1, 0, -1.

    Volumes are those of whole spheres; of flat and hyperbolic factors a piece of volume 1 at radius 1 is taken.
    """

    dims: tuple[int, ...]
    signs: tuple[int, ...]
    squares: Tensor

    def __post_init__(self) -> None:
        if not len(self.dims) == len(self.signs) == self.squares.numel() > 0 or not set(self.signs) <= {-1, 0, 1}:
            raise GeometryError(
                f"dimensions {self.dims}, signs {self.signs}, {tuple(self.squares.shape)} radii",
                hint="one dimension, one sign of +1, 0 or -1 and one squared radius for each factor",
            )
        if not float(require_finite(self.squares, "a squared radius").detach().min()) > 0:
            raise GeometryError(
                f"a squared radius is {float(self.squares.min()):.3g}", hint="the space has collapsed: stop earlier"
            )

    @property
    def dim(self) -> int:
        """The sum of the dimensions."""
        return sum(self.dims)

    @property
    def sectional(self) -> Tensor:
        """The curvature of each factor, [F]."""
        return self.squares.new_tensor(self.signs) / self.squares

    @property
    def volume(self) -> Tensor:
        """[]."""
        units = [sphere_volume(n) if sign > 0 else 1.0 for n, sign in zip(self.dims, self.signs, strict=True)]
        return (self.squares ** (self.squares.new_tensor(self.dims) / 2) * self.squares.new_tensor(units)).prod()


@dataclass(frozen=True)
class ConformalMetric:
    """g = e^2u times a background of constant curvature on a periodic grid in two dimensions.

    Args:
        log_factor: u, values [H, W], both axes periodic.
        background_curvature: The Gauss curvature of the background, sampled flat: 0 for a torus.
    """

    log_factor: GridField
    background_curvature: float = 0.0

    def __post_init__(self) -> None:
        u = self.log_factor
        if u.values.ndim != 2 or u.periodic != (True, True):
            raise GeometryError(
                f"a log factor {tuple(u.values.shape)} with periodic axes {u.periodic}",
                hint="give [H, W] values on a grid that is periodic both ways",
            )
        require_finite(u.values, "the log factor")
        if not math.isfinite(self.background_curvature):
            raise GeometryError(f"a background of curvature {self.background_curvature}", hint="0 for a torus")

    @property
    def area_density(self) -> Tensor:
        """e^2u times the area of a grid cell, [H, W]."""
        return (2 * self.log_factor.values).exp() * math.prod(self.log_factor.spacing)

    @property
    def gauss(self) -> Tensor:
        """K = e^-2u (K0 - Laplacian u), [H, W]."""
        u = self.log_factor
        laplacian = grid_derivative(u, 0, order=2) + grid_derivative(u, 1, order=2)
        return (-2 * u.values).exp() * (self.background_curvature - laplacian)


FlowMetric: TypeAlias = SpaceForms | ConformalMetric | GridField
"""A GridField holds a sampled metric, [*S, n, n] with n grid axes."""


def grid_curvature(metric: GridField, symbols: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Christoffel symbols [*S, l, i, j] and Riemann tensor [*S, l, i, j, k] of a sampled metric.

    Args:
        metric: [*S, n, n] over n axes.
        symbols: Those of another connection, [*S, n, n, n]; Levi-Civita's if left out.

    Raises:
        GeometryError: the shape does not fit, or the metric is singular somewhere.
    """
    n = len(metric.spacing)
    if metric.values.shape[n:] != (n, n):
        raise GeometryError(
            f"a sampled metric {tuple(metric.values.shape)} over {n} axes", hint=f"it must be [*S, {n}, {n}]"
        )
    require_nondegenerate(metric.values, "the sampled metric")
    if symbols is None:
        symbols = tensors.christoffel(metric.values, grid_gradient(metric))
    slope = grid_gradient(GridField(symbols, metric.spacing, metric.periodic))
    return symbols, tensors.riemann(symbols, slope)
