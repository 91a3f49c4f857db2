"""Persistent cohomology of a filtered simplicial complex over Z_p."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import inf
from typing import NamedTuple

import torch
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.checking import require_finite, require_prime
from toolkit.geometry.types import SimplicialComplex

__all__ = ["Bar", "Filtration", "persistent_cohomology", "rips_filtration"]


class Bar(NamedTuple):
    """A class of dimension `dim` that lives from `birth` to `death`; inf if it lives for ever."""

    dim: int
    birth: float
    death: float


@dataclass(frozen=True)
class Filtration:
    """A complex with a value for each simplex: no simplex comes before its faces.

    Args:
        complex: Closed under faces.
        values: For each dimension k the values [n_k].
    """

    complex: SimplicialComplex
    values: tuple[Tensor, ...]

    def __post_init__(self) -> None:
        counts = [len(block) for block in self.complex.simplices]
        if [tuple(v.shape) for v in self.values] != [(n,) for n in counts]:
            raise GeometryError(
                f"values of shapes {[tuple(v.shape) for v in self.values]} for {counts} simplices",
                hint="give one value for each simplex",
            )
        at = self.by_simplex()
        for simplex, value in at.items():
            if value != value:
                raise GeometryError(f"the simplex {simplex} comes at {value}", hint="values are numbers")
            for face in combinations(simplex, len(simplex) - 1):
                if face and at[face] > value:
                    raise GeometryError(
                        f"the simplex {simplex} comes at {value:.6g}, before its face {face} at {at[face]:.6g}",
                        hint="give each simplex at least the largest value of its faces",
                    )

    def by_simplex(self) -> dict[tuple[int, ...], float]:
        """Values by vertices."""
        return {
            tuple(simplex): value
            for block, values in zip(self.complex.simplices, self.values, strict=True)
            for simplex, value in zip(block.tolist(), values.tolist(), strict=True)
        }


def rips_filtration(points: Tensor, *, radius: float, dim: int = 2) -> Filtration:
    """The Vietoris-Rips filtration of `points` [N, n]: a simplex comes when its longest edge does.

    Args:
        points: N >= 1.
        radius: Longer edges are left out.
        dim: The largest dimension of a simplex; classes up to dim - 1 are right.

    Raises:
        GeometryError: no point, or coordinates that are not finite.
    """
    if points.ndim != 2 or not len(points) or dim < 1 or not radius >= 0:
        raise GeometryError(
            f"points of shape {tuple(points.shape)} to dimension {dim} and radius {radius}",
            hint="[N, n], dimension >= 1, radius >= 0",
        )
    require_finite(points, "a point")
    distances = torch.cdist(points.double(), points.double(), compute_mode="donot_use_mm_for_euclid_dist").tolist()
    levels: list[dict[tuple[int, ...], float]] = [{(i,): 0.0 for i in range(len(points))}]
    for _ in range(dim):
        grown: dict[tuple[int, ...], float] = {}
        for simplex, value in levels[-1].items():
            for vertex in range(simplex[-1] + 1, len(points)):
                longest = max(value, *(distances[vertex][i] for i in simplex))
                if longest <= radius:
                    grown[(*simplex, vertex)] = longest
        if not grown:
            break
        levels.append(grown)
    blocks = tuple(torch.tensor(sorted(level), dtype=torch.int64) for level in levels)
    values = tuple(torch.tensor([level[s] for s in sorted(level)], dtype=torch.float64) for level in levels)
    return Filtration(SimplicialComplex(blocks), values)


def persistent_cohomology(
    filtration: Filtration, *, prime: int = 2, least: float = 0.0, dim: int | None = None
) -> list[Bar]:
    """The barcode over Z_p, by dimension, then birth, then death.

    Coboundaries are reduced by dimension, from the last simplex to the first.
    Over a field the bars of cohomology and homology are the same.

    Args:
        filtration: What grows.
        prime: p.
        least: Bars that are not longer are left out.
        dim: The largest dimension of a bar. A Rips filtration to dimension k wants k - 1: above that its classes are
            only what larger simplices would have filled.

    Raises:
        GeometryError: p is not prime.

    Source: de Silva, Morozov and Vejdemo-Johansson 2011, Inverse Problems 27, 124003; Edelsbrunner and Harer 2010.
    """
    require_prime(prime)
    at = filtration.by_simplex()
    order = sorted(at, key=lambda s: (at[s], len(s), s))
    place = {simplex: i for i, simplex in enumerate(order)}
    coboundary: list[dict[int, int]] = [{} for _ in order]
    for simplex, i in place.items():
        for j in range(len(simplex) if len(simplex) > 1 else 0):
            coboundary[place[simplex[:j] + simplex[j + 1 :]]][i] = (-1) ** j % prime
    reduced: dict[int, dict[int, int]] = {}  # by the first simplex of the column, which is the one that ends the class
    bars = []
    for start in sorted(range(len(order)), key=lambda i: (len(order[i]), -i)):
        if start in reduced:  # it ends a class of one dimension less, and begins none
            continue
        column = coboundary[start]
        while column and (end := min(column)) in reduced:
            other = reduced[end]
            factor = column[end] * pow(other[end], -1, prime)
            column = {
                i: value
                for i in column.keys() | other.keys()
                if (value := (column.get(i, 0) - factor * other.get(i, 0)) % prime)
            }
        birth, death = at[order[start]], inf
        if column:
            reduced[min(column)] = column
            death = at[order[min(column)]]
        if death - birth > least and (dim is None or len(order[start]) - 1 <= dim):
            bars.append(Bar(len(order[start]) - 1, birth, death))
    return sorted(bars)
