"""Vector bundles over charts: a connection form in each, and transition functions where two overlap."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.func import jacfwd

from toolkit.errors import GeometryError
from toolkit.geometry.checking import require_finite
from toolkit.geometry.core.patterns.fiber_bundle.transport import transport
from toolkit.geometry.core.patterns.riemannian.manifold import over_points
from toolkit.geometry.types import Chart, Field, Path

__all__ = ["ChartBundle", "FiberChart", "LocalChart", "Patch"]


@dataclass(frozen=True)
class Patch:
    """A chart over which the bundle is a product.

    Args:
        chart: The chart.
        margin: [*B, n] -> [*B], how far inside the chart coordinates are; of several charts the widest is used.
        connection: A, [n] -> [n, k, k]: A(x)[i] belongs to direction i.
    """

    chart: Chart
    margin: Callable[[Tensor], Tensor]
    connection: Field


@dataclass(frozen=True)
class LocalChart:
    """Base coordinates [*B, n] in the charts [*B] (int64, positions in `ChartBundle.patches`)."""

    index: Tensor
    coordinates: Tensor


@dataclass(frozen=True)
class FiberChart:
    """Fibre coordinates [*B, k] in the frames of the charts [*B]."""

    index: Tensor
    coordinates: Tensor


class ChartBundle:
    """A vector bundle with a connection. Source: Nakahara 2003, "Geometry, Topology and Physics", chapters 9 and 10.

    A point of the total space is (chart, x, v): the position of a patch, and x and v as one tensor [*B, n + k],
    complex where the fibre is. Sections along a curve obey ds/dt = -A(dx/dt) s.

    Args:
        patches: At least one, of one dimension.
        transitions: (a, b) -> g_ab with v_a = g_ab v_b; a field [n] -> [k, k] of the coordinates of a. The inverse
            pair follows, and so does g_aa.
        fiber_dim: k.
    """

    def __init__(self, patches: Sequence[Patch], transitions: Mapping[tuple[int, int], Field], fiber_dim: int) -> None:
        if not patches or len({p.chart.dim for p in patches}) != 1 or fiber_dim < 1:
            raise GeometryError(
                f"a bundle of fibre dimension {fiber_dim} over charts of dimensions {[p.chart.dim for p in patches]}",
                hint="give one patch or more, all of one dimension, and fibres of dimension 1 or more",
            )
        self.patches, self.transitions = tuple(patches), dict(transitions)
        self.base_dim, self.fiber_dim = patches[0].chart.dim, fiber_dim

    def bundle_projection(self, total: Tensor) -> Tensor:
        """pi(x, v) = x: [*B, n + k] -> [*B, n], real.

        Raises:
            GeometryError: the last axis is not n + k long.
        """
        if total.shape[-1:] != (self.base_dim + self.fiber_dim,):
            raise GeometryError(
                f"total-space points come as {tuple(total.shape)}",
                hint=f"the last axis holds {self.base_dim} base and {self.fiber_dim} fibre coordinates",
            )
        base = total[..., : self.base_dim]
        return base.real if base.is_complex() else base

    def coordinate_change(self, source: int, target: int, points: Tensor) -> Tensor:
        """Coordinates of `target` for points [*B, n] in those of `source`; the same numbers for charts of no embedding.

        What lies outside the target comes back as whatever its map says there.
        """
        a, b = self.patches[source].chart, self.patches[target].chart
        if source == target or a.to_ambient is None or b.from_ambient is None:
            return points
        return over_points(b.from_ambient, over_points(a.to_ambient, points))

    def local_trivialization(self, point: Tensor, chart: int = 0) -> tuple[LocalChart, FiberChart]:
        """Each point in the chart that holds it with the widest margin.

        Args:
            point: [*B, n + k], in the chart and frame of `chart`.

        Raises:
            GeometryError: a point is not finite, or is in no chart.
        """
        x, v = self.bundle_projection(require_finite(point, "a point")), point[..., self.base_dim :]
        self._require_inside(chart, x)
        places = [self.coordinate_change(chart, b, x) for b in range(len(self.patches))]
        margins = [
            torch.where(p.chart.domain(y) & y.isfinite().all(-1), p.margin(y), -torch.inf)
            for p, y in zip(self.patches, places, strict=True)
        ]
        best = torch.stack(margins).argmax(0)
        base, fibre = x, v
        for b in range(len(self.patches)):
            chosen = (best == b)[..., None]
            if b != chart and bool(chosen.any()):
                safe = torch.where(chosen, places[b], places[b][best == b][0])  # only chosen points are in the overlap
                moved = (over_points(self.transition_functions(b, chart), safe) @ v[..., None])[..., 0]
                base, fibre = torch.where(chosen, places[b], base), torch.where(chosen, moved, fibre)
        return LocalChart(best, base), FiberChart(best, fibre)

    def transition_functions(self, first: int, second: int) -> Field:
        """g_ab with v_a = g_ab v_b, as a field [n] -> [k, k] of the coordinates of chart a = `first`.

        Raises:
            GeometryError: the two charts have no transition.
        """
        if (first, second) in self.transitions:
            return self.transitions[first, second]
        if first == second:
            return lambda x: torch.eye(self.fiber_dim, dtype=self.patches[first].connection(x).dtype)
        if (second, first) not in self.transitions:
            raise GeometryError(f"charts {first} and {second} have no transition", hint="name charts that overlap")
        inverse = self.transitions[second, first]

        def undone(x: Tensor) -> Tensor:
            inverted: Tensor = torch.linalg.inv(inverse(self.coordinate_change(first, second, x)))
            return inverted

        return undone

    def connection_form(self, x: Tensor, tangent: Tensor, chart: int = 0) -> Tensor:
        """A(x)[dx] at points and tangents [*B, n] -> [*B, k, k], differentiable.

        Raises:
            GeometryError: a point is outside the chart.
        """
        self._require_inside(chart, x)
        local = over_points(self.patches[chart].connection, x)
        value: Tensor = torch.einsum("...i,...iab->...ab", require_finite(tangent, "a tangent").to(local.dtype), local)
        return value

    def curvature(self, x: Tensor, chart: int = 0) -> Tensor:
        """F_ij = d_i A_j - d_j A_i + [A_i, A_j] at points [*B, n] -> [*B, i, j, k, k]."""
        self._require_inside(chart, x)
        connection = self.patches[chart].connection

        def field_strength(point: Tensor) -> Tensor:
            a = connection(point)
            half: Tensor = _slopes(connection, point) + torch.einsum("iab,jbc->ijac", a, a)
            return half - half.transpose(0, 1)

        return require_finite(over_points(field_strength, x), "the curvature")

    def parallel_transport(self, section: Tensor, path: Path, *, chart: int = 0,
                           method: Literal["exponential", "rk4"] = "exponential") -> Tensor:  # fmt: skip
        """A fibre vector carried along a path that stays in one chart.

        Args:
            section: [*B, k], at the start.
            path: points [*B, K, n], joined by straight lines in the chart.
            method: "exponential" (order 2; stays in the group, so unitary connections keep norms to rounding) or
                "rk4" (order 4).

        Returns:
            [*B, k], at the end.

        Raises:
            GeometryError: the path leaves the chart.
        """
        self._require_inside(chart, path.points)
        return (self._carry(path, chart, method) @ require_finite(section, "a section")[..., None])[..., 0]

    def holonomy(self, loop: Path, *, chart: int = 0,
                 method: Literal["exponential", "rk4"] = "exponential") -> Tensor:  # fmt: skip
        """The linear map [*B, k, k] that carrying round a loop is, in the frame at its start. See `parallel_transport`.

        The loop closes in the manifold; angles may end a full turn from where they began.
        """
        self._require_inside(chart, loop.points)
        return self._carry(loop, chart, method)

    def chern_number(self, cells: Sequence[tuple[int, Tensor]]) -> int:
        """(1/2pi) of the curvature flux through a closed surface, by the phase of each cell's holonomy.

        Args:
            cells: (chart, corners [M, 4, n]) in the order of the orientation; together they cover the surface once.

        Raises:
            GeometryError: the phases do not sum to a whole number: cells are missing, or the surface is not closed.

        Source: Fukui, Hatsugai & Suzuki 2005. Exact while the flux through every cell is below pi.
        """
        flux = torch.zeros((), dtype=torch.float64)
        for chart, corners in cells:
            closed = torch.cat([corners, corners[:, :1]], dim=1)
            times = torch.arange(5, dtype=corners.dtype)
            loop = self.holonomy(Path(closed, times), chart=chart)
            flux = flux - torch.linalg.det(loop).angle().sum()
        turns = float(flux / (2 * torch.pi))
        if abs(turns - round(turns)) > 1e-6:  # rounding of a sum over cells; a gap in the surface leaves more
            raise GeometryError(f"the flux is {turns:.6g} turns", hint="the cells must close up; refine them")
        return round(turns)

    def _carry(self, path: Path, chart: int, method: Literal["exponential", "rk4"]) -> Tensor:
        connection = self.patches[chart].connection
        return require_finite(transport(lambda x: over_points(connection, x), path.points, method), "a transport")

    def _require_inside(self, chart: int, x: Tensor) -> None:
        if not 0 <= chart < len(self.patches):
            raise GeometryError(f"chart {chart} of {len(self.patches)}", hint="charts are counted from 0")
        inside = self.patches[chart].chart.domain(require_finite(x, "a point"))
        if not bool(inside.all()):
            outside = x[~inside].reshape(-1, x.shape[-1])[0].tolist()
            raise GeometryError(
                f"{outside} is outside the chart {self.patches[chart].chart.name!r}",
                hint="use another chart there; see local_trivialization",
            )


def _slopes(field: Field, point: Tensor) -> Tensor:
    """d_i of a field's value, i leading; of a complex value the parts are derived apart, as jacfwd wants reals."""
    if not field(point).is_complex():
        real: Tensor = jacfwd(field)(point)
        return real.movedim(-1, 0)
    parts: Tensor = jacfwd(lambda x: torch.view_as_real(field(x)))(point)
    return torch.complex(parts[..., 0, :], parts[..., 1, :]).movedim(-1, 0)
