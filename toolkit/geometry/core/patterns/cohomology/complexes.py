"""Finite complexes that stand for a space of patterns: grids that close, and the cliques of an attention graph."""

from __future__ import annotations

from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.checking import require_square
from toolkit.geometry.types import SimplicialComplex

__all__ = ["from_attention", "grid_torus"]


def grid_torus(rows: int, columns: int) -> SimplicialComplex:
    """A torus: vertex (i, j) is i * columns + j, and each square is cut along the diagonal from (i, j).

    Raises:
        GeometryError: fewer than three rows or columns, where triangles would coincide.
    """
    if min(rows, columns) < 3:
        raise GeometryError(f"a {rows} x {columns} torus", hint="three rows and columns are the fewest that close up")

    def at(i: int, j: int) -> int:
        return i % rows * columns + j % columns

    return SimplicialComplex.from_facets(
        [
            (at(i, j), at(i + 1, j + 1), corner)
            for i in range(rows)
            for j in range(columns)
            for corner in (at(i + 1, j), at(i, j + 1))
        ]
    )


def from_attention(attention: Tensor, threshold: float, *, max_dim: int = 2) -> SimplicialComplex:
    """The clique complex of an attention graph: tokens i, j are joined where 1/2 (P_ij + P_ji) >= threshold.

    Args:
        attention: P, [N, N], finite.
        threshold: The weight that makes an edge, > 0.
        max_dim: Cliques of up to max_dim + 1 tokens count. Betti numbers below this dimension are those of the
            whole clique complex.

    Raises:
        GeometryError: P is not square, or the threshold is not positive (every pair would be joined).

    Source: Petri et al. 2014 for clique complexes of weighted networks.
    """
    if attention.ndim != 2 or not threshold > 0:
        raise GeometryError(
            f"attention {tuple(attention.shape)} at the threshold {threshold}", hint="one matrix [N, N], threshold > 0"
        )
    weights = 0.5 * (require_square(attention, "the attention") + attention.T)
    joined = (weights >= threshold).tolist()
    size = len(joined)
    above = [{j for j in range(i + 1, size) if joined[i][j]} for i in range(size)]
    cliques: list[tuple[int, ...]] = [(i,) for i in range(size)]
    level: list[tuple[tuple[int, ...], set[int]]] = [((i,), above[i]) for i in range(size)]
    for _ in range(max_dim):
        level = [((*clique, j), common & above[j]) for clique, common in level for j in sorted(common)]
        cliques.extend(clique for clique, _ in level)
    return SimplicialComplex.from_facets(cliques)
