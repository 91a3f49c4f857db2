"""Whole numbers that say how far a bundle is from a product: w1, the Euler number, the first Chern number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.core.patterns.cohomology.cochains import coboundary, exterior_derivative, positions_of
from toolkit.geometry.core.patterns.cohomology.elimination import pivots_modulo
from toolkit.geometry.core.patterns.fiber_bundle import ChartBundle, GraphBundle
from toolkit.geometry.core.quantum.state_space.parametrised import berry_flux
from toolkit.geometry.types import SimplicialComplex

__all__ = ["CharacteristicClasses", "angle_defects", "characteristic_classes", "euler_number", "lattice_chern_number"]


@dataclass(frozen=True)
class CharacteristicClasses:
    """What is known of a bundle: `w1` (1 if it cannot be oriented, else 0) or `c1`, its first Chern number."""

    w1: int | None = None
    c1: int | None = None


def characteristic_classes(bundle: GraphBundle | ChartBundle, *, complex_: SimplicialComplex | None = None,
                           cells: Sequence[tuple[int, Tensor]] = ()) -> CharacteristicClasses:  # fmt: skip
    """w1 of a real bundle over a graph, or c1 of a complex bundle over a surface.

    Args:
        bundle: A GraphBundle with real maps, or a ChartBundle.
        complex_: For graphs, the complex of which it is the 1-skeleton: the signs of det O_ij must be closed on its
            triangles. The graph alone if left out.
        cells: For charts, the surface. See `ChartBundle.chern_number`.

    Raises:
        GeometryError: the signs multiply to -1 round a triangle, an edge has no map, or cells are missing.

    Source: Milnor & Stasheff 1974, "Characteristic Classes".
    """
    if isinstance(bundle, ChartBundle):
        if not cells:
            raise GeometryError("a bundle over charts without cells", hint="pass cells=, the surface to integrate over")
        return CharacteristicClasses(c1=bundle.chern_number(cells))
    if bundle.maps.is_complex():
        raise GeometryError("w1 of complex fibres", hint="complex bundles are oriented: ask for c1")
    base = complex_ or SimplicialComplex.from_facets(
        [(node,) for node in range(bundle.nodes)] + [tuple(pair) for pair in bundle.edges.tolist()]
    )
    edges = positions_of(base, bundle.edges.sort(1).values) if base.dim else torch.zeros(0, dtype=torch.int64)
    if len(edges) != base.count(1):
        raise GeometryError(
            f"{base.count(1)} edges with {len(edges)} edge maps", hint="the graph is the complex's 1-skeleton"
        )
    signs = torch.zeros(base.count(1), dtype=torch.int64)
    signs[edges] = (torch.linalg.det(bundle.maps) < 0).to(torch.int64)
    if base.dim > 1 and bool((odd := exterior_derivative(base, signs, 1) % 2).any()):
        raise GeometryError(
            f"the signs multiply to -1 round the triangle {base.simplices[2][int(odd.argmax())].tolist()}",
            hint="the edge maps are no bundle over this complex",
        )
    exact = coboundary(base, 0).toarray()
    together = np.concatenate([exact, signs[:, None].numpy()], axis=1)
    return CharacteristicClasses(w1=pivots_modulo(together, 2)[0] - pivots_modulo(exact, 2)[0])


def angle_defects(mesh: SimplicialComplex, points: Tensor) -> Tensor:
    """2 pi minus the angles that meet at each vertex of a closed triangle mesh, [n_0]; they sum to 2 pi chi.

    Args:
        mesh: Triangles; every edge in two of them.
        points: [V, 3], where vertex v stands.

    Raises:
        GeometryError: the mesh is not closed, or a triangle is flat.

    Source: Descartes; Gauss and Bonnet for the smooth case.
    """
    if mesh.dim != 2 or not (abs(coboundary(mesh, 1)).sum(axis=0) == 2).all():
        raise GeometryError("the mesh is no closed surface", hint="each edge must belong to exactly two triangles")
    corners = points[mesh.simplices[2]]
    defects = points.new_full((mesh.count(0),), 2 * math.pi)
    for i in range(3):
        one, other = corners[:, (i + 1) % 3] - corners[:, i], corners[:, (i + 2) % 3] - corners[:, i]
        across = torch.linalg.cross(one, other).norm(dim=1)
        if not float(across.min()) > 0:
            raise GeometryError(
                f"a triangle has the area {float(across.min()) / 2:.3g}", hint="move its vertices apart"
            )
        angle = torch.atan2(across, (one * other).sum(1))
        defects = defects.index_add(0, positions_of(mesh, mesh.simplices[2][:, i : i + 1]), -angle)
    return defects


def euler_number(mesh: SimplicialComplex, points: Tensor) -> int:
    """The Euler number of the tangent bundle of a closed mesh, from its angle defects. See `angle_defects`."""
    turns = float(angle_defects(mesh, points).sum()) / (2 * math.pi)
    return round(turns)


def lattice_chern_number(frames: Tensor) -> int:
    """The first Chern number of the bundle spanned by vectors over a periodic grid.

    Args:
        frames: [N, M, d] or [N, M, d, m], complex: one vector, or m of them, at each point of the torus; any phases.

    Raises:
        GeometryError: neighbours are orthogonal: the grid is too coarse, or a gap closes on it.

    The sign is that of the connection <u|du>, as in `ChartBundle.chern_number`; the curvature -2 Im Q of quantum
    states, and with it `chern_number` of a crystal, has the opposite one.

    Source: Fukui, Hatsugai & Suzuki 2005. A whole number on any grid, the right one where no plaquette holds pi.
    """
    closed = torch.cat([frames, frames[:1]])
    return -round(float(berry_flux(torch.cat([closed, closed[:, :1]], dim=1)).sum()) / (2 * math.pi))
