"""Which elites go when memory is short."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from toolkit.errors import BudgetExceeded
from toolkit.search.cells import Cells
from toolkit.search.columns import Columns

__all__ = ["least_missed", "make_room"]

_NEIGHBOURS = 8


def make_room(
    columns: Columns, cells: Cells, front_size: int, *, coming: int, leaving: int, budget_bytes: int, may_evict: bool,
    spared: Collection[int],
) -> None:  # fmt: skip
    """Clear slots until genomes of `coming` bytes fit, when those of `leaving` bytes have gone for them.

    Args:
        front_size: Slots a cell.
        may_evict: Whether elites may go that nothing takes the place of.
        spared: Cells whose elites stay.

    Raises:
        BudgetExceeded: they do not fit.
    """
    over = int(columns.nbytes.sum()) - leaving + coming - budget_bytes
    while over > 0 and may_evict and coming <= budget_bytes:
        slot = least_missed(columns, cells, front_size, spared)
        if slot is None:
            break
        over -= int(columns.nbytes[slot])
        columns.clear(slot)
    if over > 0:
        raise BudgetExceeded(
            f"{coming} bytes of genomes do not fit into the {budget_bytes} bytes of this archive",
            hint="store factors of lower rank, raise budget_bytes, or let the worst go: over_budget='evict'",
        )


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
