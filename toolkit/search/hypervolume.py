"""The volume that a front dominates, exactly. All goals are to be maximized.

Source: Zitzler and Thiele 1998; by slices, While et al. 2006. Meant for fronts of some hundred points in two
dimensions and some ten in more.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from toolkit.search.measures import Floats

__all__ = ["exclusive", "hypervolume", "non_dominated"]


def non_dominated(points: Floats) -> NDArray[np.bool_]:
    """(n,) whether no other of `points` (n, m) is as good everywhere and better somewhere."""
    as_good = (points[:, None] >= points[None]).all(2)
    better = (points[:, None] > points[None]).any(2)
    free: NDArray[np.bool_] = np.logical_not((as_good & better).any(0))
    return free


def hypervolume(points: Floats, reference: Floats) -> float:
    """Volume between `reference` (m,) and the front of `points` (n, m). What does not beat it everywhere counts 0.

    Raises:
        ValueError: a point is not finite.
    """
    if not np.isfinite(points).all():
        raise ValueError("the hypervolume of points that are not finite")
    above = points[(points > reference).all(1)] - reference
    return _volume(above) if len(above) else 0.0


def _volume(points: Floats) -> float:
    if points.shape[1] == 1:
        return float(points.max())
    if points.shape[1] == 2:
        order = points[np.lexsort((-points[:, 1], -points[:, 0]))]
        reached = np.maximum.accumulate(order[:, 1])
        return float((order[:, 0] * np.diff(reached, prepend=0.0)).sum())
    front = points[non_dominated(points)]
    heights = np.unique(front[:, -1])
    thickness = np.diff(heights, prepend=0.0)
    return float(sum(t * _volume(front[front[:, -1] >= h][:, :-1]) for h, t in zip(heights, thickness, strict=True)))


def exclusive(points: Floats, reference: Floats) -> Floats:
    """(n,) the volume that is lost without each point."""
    whole = hypervolume(points, reference)
    return np.array([whole - hypervolume(np.delete(points, i, 0), reference) for i in range(len(points))])
