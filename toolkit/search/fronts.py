"""Which members of a cell's front stay."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from toolkit.search.hypervolume import exclusive, non_dominated
from toolkit.search.measures import Floats

__all__ = ["kept_of_front"]


def kept_of_front(goals: Floats, feasible: NDArray[np.bool_], ids: Sequence[str], size: int) -> frozenset[int]:
    """Positions that stay: the feasible that nobody dominates, at most `size`.

    What adds least volume goes first, of equals the larger id. Source: Beume, Naujoks, Emmerich 2007 (SMS-EMOA).

    Args:
        goals: (n, k), larger is better.
        feasible: (n,) whether it is among those that break the constraints least.
        ids: (n,) of the members.
    """
    kept = [int(i) for i in np.flatnonzero(feasible)]
    kept = [kept[i] for i in np.flatnonzero(non_dominated(goals[kept]))]
    while len(kept) > size:
        # the reference lies below all goals, so that the ends of a front count too
        lost = exclusive(goals[kept], goals.min(0) - 1.0)
        kept.remove(min(zip(kept, lost, strict=True), key=lambda pair: (pair[1], _falling(ids[pair[0]])))[0])
    return frozenset(kept)


def _falling(name: str) -> tuple[int, ...]:
    return tuple(-ord(letter) for letter in name)
