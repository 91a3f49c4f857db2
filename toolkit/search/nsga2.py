"""Fronts of goals: who dominates whom, and who stands alone. Source: Deb, Pratap, Agarwal, Meyarivan 2002 (NSGA-II).

All goals are to be maximized.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from toolkit.search.measures import Floats

__all__ = ["crowding", "crowding_order", "fronts"]


def fronts(goals: Floats, violation: Floats) -> NDArray[np.intp]:
    """(n,) number of the front of each of `goals` (n, m): 0 is dominated by none, k by some of front k - 1.

    Who breaks the constraints less, by `violation` (n,), dominates whatever the goals say.
    """
    ahead = (goals[:, None] >= goals[None]).all(2) & (goals[:, None] > goals[None]).any(2)
    legal_equal = violation[:, None] == violation[None]
    dominates = (violation[:, None] < violation[None]) | (legal_equal & ahead)
    left = dominates.sum(0)  # by how many that are in no front yet
    rank = np.full(len(goals), -1, np.intp)
    number = 0
    while (rank < 0).any():
        front = (left == 0) & (rank < 0)
        rank[front] = number
        left = left - dominates[front].sum(0)
        number += 1
    return rank


def crowding(goals: Floats) -> Floats:
    """(n,) how far apart the neighbours of each of one front's `goals` (n, m) are, summed over goals; ends inf."""
    distance = np.zeros(len(goals))
    for column in goals.T:
        order = np.argsort(column, kind="stable")
        spread = column[order[-1]] - column[order[0]]
        distance[order[[0, -1]]] = np.inf
        if spread > 0 and len(order) > 2:
            distance[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / spread
    return distance


def crowding_order(goals: Floats, violation: Floats) -> NDArray[np.intp]:
    """(n,) positions, best first: by front, then by crowding distance, falling; of equals the first."""
    rank = fronts(goals, violation)
    distance = np.zeros(len(goals))
    for number in range(int(rank.max(initial=-1)) + 1):
        members = np.flatnonzero(rank == number)
        distance[members] = crowding(goals[members])
    order: NDArray[np.intp] = np.lexsort((np.arange(len(goals)), -distance, rank))
    return order
