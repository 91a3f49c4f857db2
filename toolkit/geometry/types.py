"""The values that the geometry packages hand to each other. Each checks its shapes when it is built."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from typing import Any, TypeAlias

import torch
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.checking import all_finite, require_finite

__all__ = [
    "Chart",
    "CheckReport",
    "Crystal",
    "Field",
    "GridField",
    "Lattice",
    "Path",
    "SimplicialComplex",
    "Trajectory",
]

Field: TypeAlias = Callable[[Tensor], Tensor]
"""A function of one point [n], with a tensor as its value: differentiable, and mapped over points by torch.vmap."""


@dataclass(frozen=True)
class GridField:
    """A field sampled on a regular grid.

    Args:
        values: [*S, *core]; S has one axis for each entry of `spacing`.
        spacing: The step along each axis of S.
        periodic: For each axis whether it closes: its derivative is spectral then, else of fourth order.
    """

    values: Tensor
    spacing: tuple[float, ...]
    periodic: tuple[bool, ...]

    def __post_init__(self) -> None:
        if not len(self.spacing) == len(self.periodic) <= self.values.ndim:
            raise GeometryError(
                f"a grid {tuple(self.values.shape)} has {len(self.spacing)} spacings and {len(self.periodic)} flags",
                hint="give one spacing and one periodic flag for each leading axis of the values",
            )
        if any(not step > 0 for step in self.spacing):
            raise GeometryError(f"grid spacings {self.spacing} are not all positive", hint="steps are lengths > 0")


@dataclass(frozen=True)
class Chart:
    """Coordinates on part of a manifold.

    Args:
        name: How errors call it.
        dim: n, the number of coordinates.
        domain: [*B, n] -> bool [*B], whether coordinates belong to the chart.
        to_ambient: [n] -> [m], the embedding, if there is one.
        from_ambient: [m] -> [n], its inverse on the image of the domain.
    """

    name: str
    dim: int
    domain: Callable[[Tensor], Tensor]
    to_ambient: Field | None = None
    from_ambient: Field | None = None


@dataclass(frozen=True)
class Path:
    """Points [*B, K, n] that are passed at the ascending times [K]."""

    points: Tensor
    times: Tensor

    def __post_init__(self) -> None:
        _require_times(self.times, self.points.shape[-2] if self.points.ndim >= 2 else None, "a path")


@dataclass(frozen=True)
class Trajectory:
    """What a flow did: states [K, *state] at the times [K], and what the integrator has to say in `info`."""

    states: Tensor
    times: Tensor
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _require_times(self.times, self.states.shape[0] if self.states.ndim else None, "a trajectory")


def _require_times(times: Tensor, count: int | None, what: str) -> None:
    if times.ndim != 1 or times.shape[0] != count:
        raise GeometryError(
            f"{what} of {count} points has times of shape {tuple(times.shape)}", hint="give one time for each point"
        )
    if not bool((times.diff() > 0).all() and all_finite(times)):
        raise GeometryError(f"the times of {what} do not ascend: {times.tolist()[:8]}", hint="sort them, no repeats")


@dataclass(frozen=True)
class SimplicialComplex:
    """Simplices by dimension: `simplices[k]` is int64 [n_k, k+1], vertices ascending in a row and rows sorted.

    The complex is closed under faces; `from_facets` closes one. Dimensions without simplices are left out at the end.
    """

    simplices: tuple[Tensor, ...]

    def __post_init__(self) -> None:
        if not self.simplices or not len(self.simplices[0]):
            raise GeometryError("a simplicial complex without vertices", hint="give at least one simplex")
        faces: set[tuple[int, ...]] = set()
        for k, block in enumerate(self.simplices):
            if block.ndim != 2 or block.shape[1] != k + 1 or block.dtype != torch.int64:
                raise GeometryError(
                    f"simplices of dimension {k} come as {block.dtype} {tuple(block.shape)}",
                    hint=f"they must be int64 [n, {k + 1}]",
                )
            rows = [tuple(row) for row in block.tolist()]
            if any(a >= b for row in rows for a, b in pairwise(row)) or rows != sorted(set(rows)):
                raise GeometryError(
                    f"simplices of dimension {k} are not in ascending order", hint="use SimplicialComplex.from_facets"
                )
            if missing := {f for row in rows for f in combinations(row, k)} - faces if k else set():
                raise GeometryError(
                    f"the face {min(missing)} of a {k}-simplex is not in the complex",
                    hint="use SimplicialComplex.from_facets, which adds faces",
                )
            faces = set(rows)

    @classmethod
    def from_facets(cls, facets: Sequence[Sequence[int]]) -> SimplicialComplex:
        """The complex of these simplices and all their faces; vertices are non-negative numbers in any order."""
        levels: dict[int, set[tuple[int, ...]]] = {}
        for facet in facets:
            vertices = sorted(set(map(int, facet)))
            if len(vertices) != len(facet) or not vertices or vertices[0] < 0:
                raise GeometryError(f"{tuple(facet)} is no simplex", hint="vertices are distinct numbers >= 0")
            for size in range(1, len(vertices) + 1):
                levels.setdefault(size - 1, set()).update(combinations(vertices, size))
        return cls(tuple(torch.tensor(sorted(levels[k]), dtype=torch.int64) for k in range(len(levels))))

    @property
    def dim(self) -> int:
        """The largest dimension of a simplex."""
        return len(self.simplices) - 1

    def count(self, k: int) -> int:
        """n_k, the number of k-simplices; 0 above `dim` and below 0."""
        return len(self.simplices[k]) if 0 <= k <= self.dim else 0

    @property
    def euler_characteristic(self) -> int:
        """The alternating sum of the n_k."""
        return sum((-1) ** k * len(block) for k, block in enumerate(self.simplices))


@dataclass(frozen=True)
class Lattice:
    """All integer combinations of the rows a_i of `vectors` [d, d]."""

    vectors: Tensor

    def __post_init__(self) -> None:
        shape = tuple(self.vectors.shape)
        if len(shape) != 2 or shape[0] != shape[1] or not shape[0]:
            raise GeometryError(f"lattice vectors come as {shape}", hint="give d vectors of R^d as rows [d, d], d >= 1")
        vectors = self.vectors.detach()
        scale = float(vectors.norm(dim=1).prod())
        volume = float(torch.linalg.det(vectors).abs())
        if not volume > 1e-12 * scale:  # a cell flatter than this has no inverse left in float64
            raise GeometryError(f"lattice vectors span a volume of {volume:.3g}", hint="give independent vectors")

    @property
    def dim(self) -> int:
        """d."""
        return int(self.vectors.shape[0])

    @property
    def volume(self) -> Tensor:
        """The volume of a primitive cell, []."""
        volume: Tensor = torch.linalg.det(self.vectors).abs()
        return volume

    @property
    def reciprocal(self) -> Lattice:
        """The lattice of the b_i with b_i . a_j = 2 pi delta_ij."""
        return Lattice(2 * torch.pi * torch.linalg.inv(self.vectors).T)


@dataclass(frozen=True)
class Crystal:
    """A lattice with a basis.

    Args:
        lattice: Of dimension d.
        positions: [N, d], fractional coordinates of the atoms, N >= 1.
        species: [N] int64, which kind each atom is of.
        masses: [N], if vibrations are asked for.
        force_constants: Real-space force constants by lattice vector: integer d-tuple -> [N, d, N, d].
        hoppings: Tight-binding matrices by lattice vector: integer d-tuple -> [N, N].
    """

    lattice: Lattice
    positions: Tensor
    species: Tensor
    masses: Tensor | None = None
    force_constants: Mapping[tuple[int, ...], Tensor] | None = None
    hoppings: Mapping[tuple[int, ...], Tensor] | None = None

    def __post_init__(self) -> None:
        if self.positions.ndim != 2 or self.positions.shape[1] != self.lattice.dim or not len(self.positions):
            raise GeometryError(
                f"atom positions come as {tuple(self.positions.shape)} in a lattice of dimension {self.lattice.dim}",
                hint=f"give fractional coordinates [N, {self.lattice.dim}] of at least one atom",
            )
        require_finite(self.positions, "an atom position")
        for name, value in (("species", self.species), ("masses", self.masses)):
            if value is not None and tuple(value.shape) != (len(self.positions),):
                raise GeometryError(
                    f"{name} come as {tuple(value.shape)} for {len(self.positions)} atoms",
                    hint="give one for each atom",
                )


@dataclass(frozen=True)
class CheckReport:
    """The answer of a check, true when it passed.

    Args:
        ok: Whether the checked statement holds.
        value: The number that decided.
        limit: What it was held against.
        detail: Whatever explains the answer.
    """

    ok: bool
    value: float
    limit: float
    detail: Mapping[str, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.ok
