"""Brillouin zones: the first as a polytope, all of them by counting nearer lattice points."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from math import pi

import torch
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.checking import require_finite
from toolkit.geometry.types import Lattice

__all__ = ["BrillouinZone", "brillouin_zones", "zone_number"]


@dataclass(frozen=True)
class BrillouinZone:
    """One zone of a lattice.

    Args:
        lattice: The lattice in real space.
        number: 1, 2, ...
        volume: (2 pi)^d / V, the same for every zone.
        vertices: [M, d], of the first zone in dimension 2 or 3; None for the others.
        faces: For each face the numbers of its vertices, in order around it; a face is an edge in the plane.
    """

    lattice: Lattice
    number: int
    volume: float
    vertices: Tensor | None = None
    faces: tuple[tuple[int, ...], ...] = ()

    def contains(self, k: Tensor) -> Tensor:
        """Whether wave vectors [*B, d] lie in this zone, bool [*B]."""
        return zone_number(self.lattice, k) == self.number


def brillouin_zones(lattice: Lattice, n: int) -> tuple[BrillouinZone, ...]:
    """The first `n` zones. Zone j holds the wave vectors whose j-th nearest reciprocal lattice point is the origin.

    Raises:
        GeometryError: n < 1.

    Source: Ashcroft and Mermin 1976, chapters 8 and 9.
    """
    if n < 1:
        raise GeometryError(f"{n} Brillouin zones", hint="ask for at least one")
    volume = (2 * pi) ** lattice.dim / float(lattice.volume)
    vertices, faces = _voronoi(lattice) if lattice.dim in (2, 3) else (None, ())
    return (
        BrillouinZone(lattice, 1, volume, vertices, faces),
        *(BrillouinZone(lattice, j, volume) for j in range(2, n + 1)),
    )


def zone_number(lattice: Lattice, k: Tensor) -> Tensor:
    """Which zone each wave vector [*B, d] lies in, int64 [*B], counted from 1; a border belongs to the lower zone."""
    require_finite(k, "a wave vector")
    if k.ndim < 1 or k.shape[-1] != lattice.dim:
        raise GeometryError(f"wave vectors of shape {tuple(k.shape)}", hint=f"give [*B, {lattice.dim}]")
    if not k.numel():
        return torch.zeros(k.shape[:-1], dtype=torch.int64)
    reciprocal = lattice.reciprocal.vectors.to(k.dtype)
    own = k.norm(dim=-1, keepdim=True)
    # A lattice point nearer to k than the origin lies within 2|k| of the origin, so its counts are bounded by
    # 2|k| |a_i| / 2 pi.
    reach = (2 * float(own.max()) * lattice.vectors.norm(dim=1) / (2 * pi)).ceil().int().tolist()
    counts = torch.tensor(list(product(*(range(-r, r + 1) for r in reach))), dtype=k.dtype)
    distances = torch.cdist(
        k.reshape(-1, lattice.dim), counts @ reciprocal, compute_mode="donot_use_mm_for_euclid_dist"
    )
    nearer = distances < own.reshape(-1, 1) * (1 - 1e-12)  # the origin itself and borders are no nearer
    value: Tensor = nearer.sum(-1).reshape(k.shape[:-1]) + 1
    return value


def _voronoi(lattice: Lattice) -> tuple[Tensor, tuple[tuple[int, ...], ...]]:
    """Vertices and faces of the Voronoi cell of the origin in the reciprocal lattice."""
    from scipy.spatial import Voronoi

    reciprocal = _reduced(lattice.reciprocal.vectors.detach().double())
    counts = torch.tensor(list(product(range(-2, 3), repeat=lattice.dim)), dtype=torch.float64)
    points = counts @ reciprocal
    origin = len(points) // 2
    cell = Voronoi(points.numpy())
    size = float(points[points.norm(dim=1) > 0].norm(dim=1).min())
    corners: list[Tensor] = []
    faces = []
    for pair, ridge in zip(cell.ridge_points.tolist(), cell.ridge_vertices, strict=True):
        if origin in pair:
            face: list[int] = []
            for at in torch.from_numpy(cell.vertices[ridge]):
                near = [i for i, corner in enumerate(corners) if float((corner - at).norm()) < 1e-6 * size]
                if not near:
                    corners.append(at)
                face.append(near[0] if near else len(corners) - 1)
            distinct = tuple(dict.fromkeys(face))
            if len(distinct) >= lattice.dim:  # fewer corners than that: the planes only touch, with no area between
                faces.append(distinct)
    used = sorted({i for face in faces for i in face})
    return torch.stack([corners[i] for i in used]), tuple(tuple(used.index(i) for i in face) for face in faces)


def _reduced(vectors: Tensor) -> Tensor:
    """The same lattice with short vectors, so that few neighbours decide its Voronoi cell."""
    rows = list(vectors)
    while True:
        rows.sort(key=lambda row: float(row.norm()))
        for i, row in enumerate(rows):
            for signs in product((-1, 0, 1), repeat=i):
                shorter = row + sum((s * other for s, other in zip(signs, rows[:i], strict=True)), torch.zeros(()))
                if float(shorter.norm()) < float(row.norm()) * (1 - 1e-12):
                    rows[i] = shorter
                    break
            else:
                continue
            break
        else:
            return torch.stack(rows)
