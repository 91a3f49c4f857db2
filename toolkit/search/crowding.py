"""Which elite goes when memory is short."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from toolkit.search.cells import Cells
from toolkit.search.columns import Columns

__all__ = ["least_missed"]

_NEIGHBOURS = 8


def least_missed(columns: Columns, cells: Cells, front_size: int, spared: Collection[int]) -> int | None:
    """The slot of the lowest score among elites whose nearest cells are the fullest; of equals the first.

    Args:
        front_size: Slots a cell.
        spared: Cells whose elites stay.
    """
    slots = [int(slot) for slot in np.flatnonzero(columns.taken) if int(slot) // front_size not in spared]
    if not slots:
        return None
    full = np.asarray(columns.taken.reshape(-1, front_size).any(1))
    crowd = {s: int(full[cells.near(cells.centroids[s // front_size], _NEIGHBOURS + 1)].sum()) for s in slots}
    most = max(crowd.values())
    return min((s for s in slots if crowd[s] == most), key=lambda s: (float(columns.score[s]), s))
