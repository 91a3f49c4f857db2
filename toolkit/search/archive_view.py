"""What an archive is asked; nothing here changes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import DescriptorError
from toolkit.search.behavior import NOT_FINITE, BehaviorSpace
from toolkit.search.cells import Cells
from toolkit.search.columns import Columns
from toolkit.search.elites import Elite
from toolkit.search.measures import Floats

__all__ = ["ArchiveView"]


class ArchiveView:
    """Elites by cell; cell `c` has the slots from `c * front_size` on.

    Args:
        space: How measures become places.
        cells: How places become cells.
        front_size: Elites a cell may hold.
    """

    def __init__(self, space: BehaviorSpace, cells: Cells, *, front_size: int) -> None:
        self.space, self.cells, self.front_size = space, cells, front_size
        self._columns = Columns(len(cells) * front_size, len(space))

    def __len__(self) -> int:
        return int(self._columns.taken.sum())

    def __iter__(self) -> Iterator[Elite]:
        """Elites by cell, those of a front by their place in it."""
        return (self._elite(int(slot)) for slot in np.flatnonzero(self._columns.taken))

    def cell_of(self, measures: Floats) -> NDArray[np.intp]:
        """Cells (n,) of raw measures (n, m); -1 for what is not finite."""
        unit, flags = self.space.normalize(measures)
        cells = np.full(len(unit), -1, np.intp)
        finite = flags != NOT_FINITE
        cells[finite] = self.cells.of(unit[finite])
        return cells

    def get(self, cell: int) -> Elite | None:
        """The best elite of a cell."""
        columns = self._columns
        slots = [s for s in self._slots(cell) if columns.taken[s]]
        best = max(slots, key=lambda s: (-float(columns.violation[s]), float(columns.score[s])), default=None)
        return None if best is None else self._elite(best)

    def nearest(self, measures: Floats, k: int = 1) -> list[Elite]:
        """The `k` elites whose own measures lie nearest to raw `measures` (m,) in the unit cube, nearest first.

        Raises:
            DescriptorError: the measures are not finite.
        """
        unit, flags = self.space.normalize(np.asarray(measures, np.float64)[None])
        if flags[0] == NOT_FINITE:
            raise DescriptorError(f"no elite is near {measures}", hint="give finite measures")
        slots = np.flatnonzero(self._columns.taken)
        distances = np.square(self._columns.unit[slots] - unit).sum(1)
        return [self._elite(int(slots[i])) for i in np.argsort(distances, kind="stable")[:k]]

    def query(self, where: Mapping[str, tuple[float, float]], order_by: str = "quality") -> list[Elite]:
        """Elites whose raw measures (or quality) lie within `where`, best quality first, or by a measure, rising.

        Raises:
            DescriptorError: a measure of this name does not exist.
        """
        columns = self._columns
        values = dict(zip(self.space.names, columns.measures.T, strict=True)) | {"quality": columns.quality}
        if unknown := sorted({*where, order_by} - set(values)):
            raise DescriptorError(f"no measure {unknown[0]!r}", hint=f"measures: {', '.join(values)}")
        kept = columns.taken.copy()
        for name, (low, high) in where.items():
            kept &= (values[name] >= low) & (values[name] <= high)
        slots = np.flatnonzero(kept)
        keys = -values[order_by][slots] if order_by == "quality" else values[order_by][slots]
        return [self._elite(int(slots[i])) for i in np.argsort(keys, kind="stable")]

    def sample(
        self, n: int, rng: np.random.Generator, *, weights: Literal["uniform", "curiosity", "quality"] = "uniform"
    ) -> list[Elite]:
        """`n` elites drawn with replacement: evenly, by how often their children stayed, or by quality.

        Raises:
            DescriptorError: the archive is empty.
        """
        slots = np.flatnonzero(self._columns.taken)
        if not len(slots):
            raise DescriptorError("nothing to sample: the archive is empty", hint="add candidates first")
        share = None
        if weights != "uniform":
            worth = self._columns.curiosity[slots] if weights == "curiosity" else self._columns.quality[slots]
            rising = worth - worth.min() + 1e-3 * (np.ptp(worth) or 1.0)
            share = rising / rising.sum()
        return [self._elite(int(slot)) for slot in rng.choice(slots, n, p=share)]

    @property
    def qualities(self) -> Floats:
        """Of all elites, by cell."""
        return self._columns.quality[self._columns.taken]

    @property
    def occupied(self) -> NDArray[np.intp]:
        """Cells that hold an elite, rising."""
        return np.unique(np.flatnonzero(self._columns.taken) // self.front_size)

    @property
    def nbytes(self) -> int:
        """Of all genomes."""
        return int(self._columns.nbytes.sum())

    def _slots(self, cell: int) -> range:
        return range(cell * self.front_size, (cell + 1) * self.front_size)

    def _elite(self, slot: int) -> Elite:
        return self._columns.elite(slot, slot // self.front_size)
