"""A manifold given by its metric in one chart, and the calculus that follows from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor
from torch.func import jvp, vmap

from toolkit.errors import GeometryError
from toolkit.geometry.checking import require_finite, require_nondegenerate
from toolkit.geometry.core.patterns.riemannian import geodesics, tensors
from toolkit.geometry.core.patterns.riemannian.curvature import Curvature
from toolkit.geometry.runtime.recording import Recorded
from toolkit.geometry.types import Field, Trajectory

__all__ = ["RiemannianManifold", "over_points"]


def over_points(field: Callable[..., Tensor], *arguments: Tensor) -> Tensor:
    """A function of vectors [n] mapped over the leading axes of arguments [*B, n]."""
    alike = torch.broadcast_tensors(*arguments)  # type: ignore[no-untyped-call]
    batch = alike[0].shape[:-1]
    if not batch:
        return field(*arguments)
    values: Tensor = vmap(field)(*(a.reshape(-1, a.shape[-1]) for a in alike))
    return values.reshape(*batch, *values.shape[1:])


@dataclass(frozen=True)
class RiemannianManifold:
    """An open set of R^n with a metric. Source: do Carmo 1992, "Riemannian Geometry"; Lee 2018.

    Signs follow the package `toolkit.geometry`. Everything but the geodesics holds for indefinite metrics too. Symbols
    and curvature cost n^3 and n^4 numbers a point: above n = 16 work with `torch.func.jvp` of the metric instead.

    Args:
        metric: [n] -> [n, n], differentiable; symmetric and nowhere singular.
        dim: n.
        recorded: Whether the operators of metric, symbols and curvature are taken down once for each number of points
            and replayed. What `toolkit.geometry.runtime.recording` asks of a function, the metric must keep.
    """

    metric: Field
    dim: int
    recorded: bool = False

    def at(self, points: Tensor) -> Tensor:
        """g_ij at `points` [*B, n] -> [*B, n, n].

        Raises:
            GeometryError: a point is not finite, or the metric there is not symmetric, or singular.
        """
        return require_nondegenerate(self._metrics(self._points(points)))

    def metric_tensor(self, point: Tensor, vectors: tuple[Tensor, Tensor]) -> Tensor:
        """g_ij u^i v^j of two vectors [*B, n] at points [*B, n] -> [*B], differentiable."""
        u, v = vectors
        product = torch.einsum("...ij,...i,...j->...", self.at(point), u, v)
        return require_finite(product, "an inner product")

    def volume_element(self, points: Tensor) -> Tensor:
        """sqrt |det g| at points [*B, n] -> [*B]."""
        volume: Tensor = torch.linalg.det(self.at(points)).abs().sqrt()
        return volume

    def christoffel_symbols(self, points: Tensor) -> Tensor:
        """The Levi-Civita symbols at points [*B, n] -> [*B, l, i, j], symmetric in i and j, differentiable.

        Raises:
            GeometryError: a point is not finite, or the metric there is singular.
        """
        self.at(points)
        return require_finite(self._symbols(points), "a Christoffel symbol")

    def covariant_derivative(self, field: Field, direction: Tensor, at: Tensor) -> Tensor:
        """The derivative of a vector field along a direction, nabla_w V, differentiable.

        Args:
            field: V, [n] -> [n], differentiable.
            direction: w, [*B, n].
            at: [*B, n].

        Returns:
            [*B, n].
        """

        def derivative(point: Tensor, along: Tensor) -> Tensor:
            value, slope = jvp(field, (point,), (along,))[:2]
            symbols = tensors.christoffel_field(self.metric)(point)
            change: Tensor = slope + torch.einsum("lij,i,j->l", symbols, along, value)
            return change

        self.at(at)
        return require_finite(over_points(derivative, at, direction), "a covariant derivative")

    def curvature_tensor(self, point: Tensor) -> Curvature:
        """The curvature at points [*B, n].

        Raises:
            GeometryError: a point is not finite, or the metric there is singular.
        """
        metric = self.at(point)
        return Curvature(metric, require_finite(self._riemann(point), "the Riemann tensor"))

    def geodesic_flow(self, start: Tensor, velocity: Tensor, times: Tensor, *, step: float = 0.025,
                      method: geodesics.Method = "rk4") -> Trajectory:  # fmt: skip
        """Geodesics as functions of time. See `geodesics.flow`: states [K, *B, 2, n], positions and velocities."""
        self.at(start)
        return geodesics.flow(self.metric, start, velocity, times, step=step, method=method)

    def exp(self, point: Tensor, vector: Tensor, *, steps: int = 64) -> Tensor:
        """Where the geodesic from `point` [*B, n] with velocity `vector` [*B, n] is at time 1, [*B, n]; differentiable.

        Raises:
            GeometryError: the geodesic leaves the chart.
        """
        self.at(point)
        return require_finite(over_points(geodesics.shooter(self.metric, steps), point, vector), "a geodesic's end")

    def log(self, point: Tensor, target: Tensor, *, steps: int = 64) -> Tensor:
        """The velocity [*B, n] with which a geodesic from `point` [*B, n] is at `target` [*B, n] at time 1.

        Inverse of `exp` inside the injectivity radius; beyond it, some geodesic that Newton's iteration finds from the
        straight line of the chart.

        Raises:
            GeometryError: none was found; the message holds the distance, in coordinates, that was left.
        """
        self.at(point)
        self.at(target)
        start, end = torch.broadcast_tensors(point, target)  # type: ignore[no-untyped-call]
        flat = geodesics.shoot(self.metric, start.reshape(-1, self.dim), end.reshape(-1, self.dim), steps=steps)
        return flat.reshape(start.shape)

    def distance(self, point: Tensor, target: Tensor, *, steps: int = 64) -> Tensor:
        """The length of the geodesic of `log`, [*B]: the distance inside the injectivity radius."""
        vector = self.log(point, target, steps=steps)
        return self.metric_tensor(point, (vector, vector)).clamp(min=0).sqrt()

    @cached_property
    def _metrics(self) -> Field:
        return self._mapped(self.metric)

    @cached_property
    def _symbols(self) -> Field:
        return self._mapped(tensors.christoffel_field(self.metric))

    @cached_property
    def _riemann(self) -> Field:
        return self._mapped(tensors.riemann_field(self.metric))

    def _mapped(self, field: Field) -> Field:
        mapped = partial(over_points, field)
        return Recorded(mapped) if self.recorded else mapped

    def _points(self, points: Tensor) -> Tensor:
        if points.shape[-1:] != (self.dim,):
            raise GeometryError(
                f"points come as {tuple(points.shape)} on a manifold of dimension {self.dim}",
                hint=f"the last axis holds the {self.dim} coordinates",
            )
        return require_finite(points, "a point")
