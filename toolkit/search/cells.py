"""The cell of a point: the nearest centroid in float64; of equally near ones the first.

Up to a few thousand cells one product of matrices in float32 finds it three times as fast as a k-d tree, and says for
all but a few points in ten thousand that no rounding can have changed the answer; those are looked up in the tree.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from toolkit.digests import canonical_digest
from toolkit.errors import DescriptorError
from toolkit.search.measures import Floats

__all__ = ["MAX_CELLS", "Cells"]

MAX_CELLS = 100_000

_MATRIX_CELLS = 4_000
"""Above, the tree is faster: its time hardly grows with the cells."""

_SURE = 1e-9
"""No rounding of float64 in so few products comes near to it."""

_CHUNK = 128
"""Points at a time, so that their scores stay in the cache."""


class Cells:
    """Centroids (c, m) in the unit cube, and lookups among them.

    Raises:
        DescriptorError: they are not 1 to MAX_CELLS rows inside the unit cube.
    """

    def __init__(self, centroids: Floats) -> None:
        array = np.array(centroids, dtype=np.float64, order="C")
        if array.ndim != 2 or not 1 <= len(array) <= MAX_CELLS or not ((array >= 0) & (array <= 1)).all():
            raise DescriptorError(
                f"centroids of shape {array.shape}", hint=f"give 1 to {MAX_CELLS} rows in the unit cube, one a cell"
            )
        array.flags.writeable = False
        self.centroids: Floats = array

    def __len__(self) -> int:
        return len(self.centroids)

    @cached_property
    def digest(self) -> str:
        """Equal for equal centroids."""
        return canonical_digest(self.centroids)

    def of(self, unit: Floats) -> NDArray[np.intp]:
        """Cells (n,) of places (n, m) in the unit cube."""
        if len(self) == 1:
            return np.zeros(len(unit), dtype=np.intp)
        if len(self) > _MATRIX_CELLS:
            return self._by_tree(unit)
        cells, lead = self._by_matrix(unit)
        unsure = lead <= self._rounding
        if unsure.any():
            cells[unsure] = self._by_tree(unit[unsure])
        return cells

    def of_one(self, unit: Floats) -> int:
        """The cell of one place (m,)."""
        if len(self) == 1 or len(self) > _MATRIX_CELLS:
            return int(self.of(unit[None])[0])
        scores = self.centroids @ unit
        scores -= self._half_squares
        best = int(scores.argmax())
        top = scores[best]
        scores[best] = -np.inf
        return best if top - scores.max() > _SURE else int(self._by_tree(unit[None])[0])

    def near(self, unit: Floats, count: int) -> NDArray[np.intp]:
        """The `count` cells nearest to one place (m,), nearest first."""
        _, nearest = self._tree.query(unit, k=np.arange(1, min(count, len(self)) + 1))
        cells: NDArray[np.intp] = nearest
        return cells

    @cached_property
    def _tree(self) -> KDTree:
        return KDTree(self.centroids)

    def _by_tree(self, unit: Floats) -> NDArray[np.intp]:
        distances, nearest = self._tree.query(unit, k=2)
        first: NDArray[np.intp] = np.where(distances[:, 0] == distances[:, 1], nearest.min(1), nearest[:, 0])
        return first

    @cached_property
    def _weights(self) -> NDArray[np.float32]:
        """(m + 1, c): x . c - |c|^2 / 2 is greatest where |x - c| is least."""
        return np.vstack([self.centroids.T, -self._half_squares]).astype(np.float32)

    @cached_property
    def _half_squares(self) -> Floats:
        halves: Floats = np.square(self.centroids).sum(1) / 2
        return halves

    @property
    def _rounding(self) -> float:
        """How far two scores may be off together: m + 1 products, each at most 1 but the last, at most m / 2.

        Inputs are rounded, products and sums as well: 2 m + 3 roundings of at most 1.5 m each, for two scores.
        """
        m = self.centroids.shape[1]
        return float(2 * (2 * m + 3) * 1.5 * m * np.finfo(np.float32).eps / 2)

    def _by_matrix(self, unit: Floats) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
        """The best cell (n,) and by how much its score leads the second's (n,)."""
        count = len(unit)
        points = np.ones((count, unit.shape[1] + 1), np.float32)
        points[:, :-1] = unit
        cells, lead = np.empty(count, np.intp), np.empty(count, np.float32)
        scores = np.empty((min(_CHUNK, count), len(self)), np.float32)
        rows = np.arange(len(scores))
        for start in range(0, count, _CHUNK):
            part = slice(start, min(start + _CHUNK, count))
            size = part.stop - start
            table, row = scores[:size], rows[:size]
            np.matmul(points[part], self._weights, out=table)
            best = table.argmax(1)
            top = table[row, best]
            table[row, best] = -np.inf
            cells[part], lead[part] = best, top - table.max(1)
        return cells, lead
