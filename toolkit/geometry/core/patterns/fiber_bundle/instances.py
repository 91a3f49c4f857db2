"""Bundles that everyone knows: products, the Moebius strip, magnetic monopoles, tangent bundles."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from toolkit.geometry.core.patterns.fiber_bundle.chart_bundle import ChartBundle, Patch
from toolkit.geometry.core.patterns.riemannian.manifold import RiemannianManifold
from toolkit.geometry.core.patterns.riemannian.tensors import christoffel_field
from toolkit.geometry.types import Chart, Field

__all__ = ["MobiusBundle", "MonopoleBundle", "TangentBundle", "TrivialBundle"]


def _everywhere(x: Tensor) -> Tensor:
    return torch.ones(x.shape[:-1], dtype=torch.bool)


class TrivialBundle(ChartBundle):
    """R^n x R^k (or C^k): one chart. Flat unless a connection [n] -> [n, k, k] is given."""

    def __init__(self, base_dim: int, fiber_dim: int, connection: Field | None = None) -> None:
        chart = Chart("product", base_dim, _everywhere)

        def flat(x: Tensor) -> Tensor:
            return x.new_zeros(base_dim, fiber_dim, fiber_dim)

        patch = Patch(chart, lambda x: torch.full(x.shape[:-1], math.inf), connection or flat)
        super().__init__([patch], {}, fiber_dim)


class TangentBundle(ChartBundle):
    """The tangent bundle of a manifold in its chart, with the Levi-Civita connection: A_i = G^l_ij."""

    def __init__(self, manifold: RiemannianManifold) -> None:
        symbols = christoffel_field(manifold.metric)
        chart = Chart("the manifold's", manifold.dim, _everywhere)
        patch = Patch(chart, lambda x: torch.full(x.shape[:-1], math.inf), lambda x: symbols(x).transpose(0, 1))
        super().__init__([patch], {}, manifold.dim)


class MobiusBundle(ChartBundle):
    """The line bundle over the circle that does not close up, flat.

    Chart 0 is the circle without the angle pi, its coordinate in (-pi, pi); chart 1 without 0, its coordinate in
    (0, 2 pi). The frames agree on the upper half and are opposite on the lower one.
    """

    def __init__(self) -> None:
        def flat(x: Tensor) -> Tensor:
            return x.new_zeros(1, 1, 1)

        def on_circle(x: Tensor) -> Tensor:
            return torch.cat([x.cos(), x.sin()])

        def angle(point: Tensor) -> Tensor:
            return torch.atan2(point[1:], point[:1])

        around = Chart("around 0", 1, lambda x: x[..., 0].abs() < math.pi, on_circle, angle)
        opposite = Chart("around pi", 1, lambda x: (x[..., 0] > 0) & (x[..., 0] < 2 * math.pi), on_circle,
                         lambda point: angle(point).remainder(2 * math.pi))  # fmt: skip
        patches = [
            Patch(around, lambda x: math.pi - x[..., 0].abs(), flat),
            Patch(opposite, lambda x: math.pi - (x[..., 0] - math.pi).abs(), flat),
        ]
        super().__init__(patches, {(0, 1): lambda x: x.sin().sign()[:, None]}, 1)


class MonopoleBundle(ChartBundle):
    """The complex line bundle over the sphere in the field of a monopole of charge n; n = 1 is the Hopf bundle.

    Both charts use the angles (theta, phi): chart 0 leaves out the south pole, chart 1 the north pole.
    A = i n/2 (1 - cos theta) dphi on chart 0, -i n/2 (1 + cos theta) dphi on chart 1; g_10 = exp(i n phi).
    """

    def __init__(self, charge: int) -> None:
        def form(sign: float) -> Field:
            def connection(x: Tensor) -> Tensor:
                phi = 0.5j * charge * (sign - x[0].cos())
                return torch.stack([torch.zeros_like(phi), phi]).reshape(2, 1, 1)

            return connection

        def band(x: Tensor) -> Tensor:
            return (x[..., 0] >= 0) & (x[..., 0] <= math.pi)

        north = Chart("north", 2, lambda x: band(x) & (x[..., 0] < math.pi))
        south = Chart("south", 2, lambda x: band(x) & (x[..., 0] > 0))
        patches = [
            Patch(north, lambda x: math.pi - x[..., 0], form(1.0)),
            Patch(south, lambda x: x[..., 0], form(-1.0)),
        ]
        super().__init__(patches, {(1, 0): lambda x: torch.exp(1j * charge * x[1]).reshape(1, 1)}, 1)

    @staticmethod
    def cells(rows: int, columns: int) -> list[tuple[int, Tensor]]:
        """The sphere cut by `rows` bands (even) and `columns` meridians, for `chern_number`: north and south half."""
        theta = torch.linspace(0, math.pi, rows + 1, dtype=torch.float64)
        phi = torch.linspace(0, 2 * math.pi, columns + 1, dtype=torch.float64)
        grid = torch.stack(torch.meshgrid(theta, phi, indexing="ij"), dim=-1)
        corners = torch.stack([grid[:-1, :-1], grid[1:, :-1], grid[1:, 1:], grid[:-1, 1:]], dim=2)
        halves = corners[: rows // 2], corners[rows // 2 :]
        return [(chart, half.reshape(-1, 4, 2)) for chart, half in enumerate(halves)]
