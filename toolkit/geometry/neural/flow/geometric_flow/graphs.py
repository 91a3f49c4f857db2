"""Curvature of the edges of a graph, and the flow of edge lengths along it."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import linprog
from scipy.sparse.csgraph import shortest_path
from torch import Tensor
from torch.nn.functional import pad

from toolkit.errors import GeometryError
from toolkit.geometry.checking import require_square
from toolkit.geometry.types import Trajectory

__all__ = ["forman_curvature", "graph_ricci_flow", "ollivier_curvature"]

_SPARSE = 16
"""Where fewer than one pair in so many is an edge, neighbours are compared as bits, 64 at a time; else by a product."""


def _require_graph(matrix: Tensor, what: str) -> tuple[Tensor, Tensor]:
    """The ends of the edges of [N, N], each both ways, [E] int64 twice; entries that are 0 need no look."""
    if matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1] > 0:
        place = torch.from_numpy(np.flatnonzero((matrix != 0).cpu().numpy())).to(matrix.device)  # torch's takes thrice
        x, y = place // len(matrix), place % len(matrix)
        held = matrix[x, y]
        if torch.equal(held, matrix[y, x]) and bool(((x != y) & (held > 0) & held.isfinite()).all()):
            return x, y
    require_square(matrix, what)
    raise GeometryError(f"{what} is of no undirected graph", hint="symmetric, not negative, zero diagonal")


def ollivier_curvature(weights: Tensor, lengths: Tensor | None = None) -> Tensor:
    """The Lin-Lu-Yau curvature of every edge.

    With the walk m_x(y) = w_xy / sum_z w_xz it is the least (Lf(x) - Lf(y)) / d(x, y) over functions f that change by
    at most the distance, and by d(x, y) from x to y, Lf(x) = sum_z m_x(z) (f(z) - f(x)): one linear program an edge.

    Args:
        weights: [N, N], symmetric, 0 where there is no edge.
        lengths: [N, N], positive on edges; 1 if left out.

    Returns:
        [N, N] float64, 0 off the edges.

    Raises:
        GeometryError: the matrices are of no graph, or an edge has no length.

    Source: Lin, Lu & Yau 2011; Muench & Wojciechowski 2019 for the program without a limit.
    """
    _require_graph(weights, "the weights")
    edges = weights > 0
    sizes = (edges if lengths is None else lengths).to(torch.float64)
    if lengths is not None:
        _require_graph(lengths, "the lengths")
    if bool((edges & ~(sizes > 0)).any()):
        raise GeometryError("an edge has the length 0", hint="lengths are positive wherever weights are")
    walk = (weights.to(torch.float64) / weights.sum(1, keepdim=True).clamp(min=1e-300)).numpy()
    distances = shortest_path(torch.where(edges, sizes, 0.0).numpy(), directed=False)
    curvature = torch.zeros(weights.shape, dtype=torch.float64)
    for x, y in edges.triu().nonzero().tolist():
        curvature[x, y] = curvature[y, x] = _edge_curvature(walk, distances, x, y)
    return curvature


def _edge_curvature(walk: np.ndarray, distances: np.ndarray, x: int, y: int) -> float:
    near = np.flatnonzero((walk[x] > 0) | (walk[y] > 0))  # x and y are neighbours, so both are here
    gap = distances[np.ix_(near, near)]
    ix, iy = int(np.flatnonzero(near == x)[0]), int(np.flatnonzero(near == y)[0])
    objective = walk[x, near] - walk[y, near]
    objective[ix] -= 1.0
    objective[iy] += 1.0
    first, second = np.nonzero(~np.eye(len(near), dtype=bool))
    rows = np.zeros((len(first), len(near)))
    rows[np.arange(len(first)), first], rows[np.arange(len(first)), second] = 1.0, -1.0
    fixed = np.zeros((2, len(near)))
    fixed[0, ix], fixed[1, iy] = 1.0, 1.0
    values = [0.0, gap[ix, iy]]
    found = linprog(objective, rows, gap[first, second], fixed, values, bounds=(None, None), method="highs")
    return float(found.fun) / float(gap[ix, iy])


def forman_curvature(adjacency: Tensor) -> Tensor:
    """4 - d_x - d_y + 3 t_xy on every edge, t the triangles on it, [N, N]; 0 off the edges.

    Source: Forman 2003; Samal et al. 2018 for the augmented form.
    """
    x, y = _require_graph(adjacency, "the adjacency matrix")
    degrees = x.bincount(minlength=len(adjacency))
    once = x < y
    x, y = x[once], y[once]
    curvature = torch.zeros_like(adjacency)
    found = (4 - degrees[x] - degrees[y] + 3 * _triangles(adjacency > 0, x, y)).to(adjacency.dtype)
    curvature[x, y] = curvature[y, x] = found
    return curvature


def _triangles(edges: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Of edges (x, y), [E] each: how many nodes are neighbours of both ends, [E] int64."""
    nodes = len(edges)
    if 2 * len(x) * _SPARSE > nodes**2 or edges.device.type != "cpu":
        number = edges.float()  # counts below 2^24 are exact
        return (number @ number)[x, y].long()
    words = torch.from_numpy(np.packbits(pad(edges, (0, -nodes % 64)).numpy(), axis=1).view(np.uint64))
    both = words.view(torch.int64)[x].bitwise_and_(words.view(torch.int64)[y])
    return torch.from_numpy(np.bitwise_count(both.numpy().view(np.uint64)).sum(1, dtype=np.int64))


def graph_ricci_flow(
    weights: Tensor, *, rate: float = 0.5, steps: int = 10, lengths: Tensor | None = None
) -> Trajectory:
    """Edge lengths under l <- l (1 - rate k), k the curvature of the edge, rescaled to the same sum after each step.

    Edges inside clusters (positive curvature) shrink and bridges (negative) stretch.

    Args:
        weights: [N, N], of the walk; fixed.
        rate: 0 < rate < 1 / 2, as curvature is at most 2.
        lengths: [N, N] at the start; 1 if left out.

    Returns:
        states [steps + 1, N, N], the lengths; info["curvature"]: [steps, N, N], before each step.

    Raises:
        GeometryError: see `ollivier_curvature`; or the rate could turn a length negative.

    Source: Ni et al. 2019.
    """
    if not 0 < rate <= 0.5 or steps < 1:
        raise GeometryError(f"{steps} steps at the rate {rate}", hint="0 < rate <= 0.5 and steps >= 1")
    edges = (weights > 0).to(torch.float64)
    now = edges if lengths is None else lengths.to(torch.float64) * edges
    total, states, curvatures = now.sum(), [now], []
    for _ in range(steps):
        curvatures.append(ollivier_curvature(weights, now))
        distances = torch.from_numpy(shortest_path(now.numpy(), directed=False))
        now = torch.where(edges > 0, distances, 0.0)  # an edge longer than a detour counts as long as the detour
        now = now * (1 - rate * curvatures[-1])
        now = now * (total / now.sum())
        states.append(now)
    times = torch.arange(steps + 1, dtype=torch.float64)
    return Trajectory(torch.stack(states), times, {"curvature": torch.stack(curvatures), "rate": rate})
