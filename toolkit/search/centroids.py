"""Where the cells of a behaviour space lie: a centroidal Voronoi tessellation.

Source: Vassiliades, Chatzilygeroudis, Mouret 2018 (CVT-MAP-Elites); Lloyd 1982. The first points of Sobol's sequence,
spread more evenly than chance spreads them, are where Lloyd's algorithm begins: five rounds from there leave a smaller
error than twenty from random samples.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc

from toolkit.errors import DescriptorError
from toolkit.rng import derive_seed, numpy_generator
from toolkit.search.cells import MAX_CELLS, Cells
from toolkit.search.measures import Floats

__all__ = ["cvt_centroids"]


def cvt_centroids(
    cells: int, measures: int, *, samples: Floats | None = None, n_samples: int = 100_000, max_iter: int = 50,
    tol: float = 1e-3, seed: int = 0,
) -> Floats:  # fmt: skip
    """Centroids (cells, measures) in the unit cube by Lloyd's algorithm, sorted.

    Args:
        samples: (n, measures) places that cells are to represent; points of Sobol's sequence all over the cube if None.
        n_samples: Of those points.
        max_iter: Rounds at most.
        tol: Stops when a round lowers the mean squared distance by a smaller share than this.
        seed: Of the points and of the first centroids.

    Raises:
        DescriptorError: more cells than different samples or than MAX_CELLS, or samples outside the unit cube.
    """
    if not 1 <= cells <= MAX_CELLS or measures < 1:
        raise DescriptorError(
            f"no {cells} cells of {measures} measures", hint=f"1 to {MAX_CELLS} cells, 1 measure or more"
        )
    points = _sobol(max(n_samples, cells), measures, seed) if samples is None else np.asarray(samples, np.float64)
    if points.ndim != 2 or points.shape[1] != measures or not ((points >= 0) & (points <= 1)).all():
        raise DescriptorError(f"samples of shape {points.shape}", hint=f"give places (n, {measures}) in [0, 1]")
    centroids = points[:cells] if samples is None else _drawn(points, cells, seed)
    last: float | None = None
    for _ in range(max_iter):
        nearest = Cells(centroids).of(points)
        distances = np.square(points - centroids[nearest]).sum(1)
        error = float(distances.mean())
        if last is not None and last - error <= tol * last:
            break
        last = error
        centroids = _means(points, nearest, distances, centroids)
    return centroids[np.lexsort(centroids.T[::-1])]


def _sobol(count: int, measures: int, seed: int) -> Floats:
    sequence = qmc.Sobol(measures, scramble=True, rng=derive_seed(seed, "cvt", "samples"))
    points: Floats = sequence.random_base2(max(1, (count - 1).bit_length()))[:count]
    return points


def _drawn(points: Floats, cells: int, seed: int) -> Floats:
    distinct = np.unique(points, axis=0)
    if len(distinct) < cells:
        raise DescriptorError(
            f"{cells} cells, but {len(distinct)} different samples", hint="ask for fewer cells, or measure more samples"
        )
    return distinct[np.sort(numpy_generator(seed, "cvt", "first").permutation(len(distinct))[:cells])]


def _means(points: Floats, nearest: NDArray[np.intp], distances: Floats, centroids: Floats) -> Floats:
    """Means of what each centroid is nearest to; one without points moves to the worst represented sample."""
    counts = np.bincount(nearest, minlength=len(centroids))
    sums = np.column_stack([np.bincount(nearest, column, len(centroids)) for column in points.T])
    moved: Floats = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centroids)
    empty = np.flatnonzero(counts == 0)
    if len(empty):
        moved[empty] = points[np.argsort(-distances, kind="stable")[: len(empty)]]
    return np.clip(moved, 0.0, 1.0)
