"""The archive of one target: axes that tell deployments apart by more than the cost model's own error, and cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import log

import numpy as np

from toolkit.errors import DescriptorError
from toolkit.search.archive import CVTArchive
from toolkit.search.behavior import BehaviorSpace
from toolkit.search.centroids import cvt_centroids
from toolkit.search.deployment.prices import MEASURES
from toolkit.search.measures import Floats, Measure

__all__ = ["MODEL_ERROR", "archive_for"]

MODEL_ERROR = 0.1
"""Relative error of the cost model that counts between deployments of one network on one target; an axis along which
they differ by less tells its noise apart. Stated, not measured."""
_CELLS = 256
_MARGIN = 1.25  # beyond what the design reached: emitters go a little further


def archive_for(samples: Floats, *, seed: int) -> CVTArchive:
    """An empty archive for deployments like those measured in `samples` (n, 5), in the order of MEASURES.

    One cell, where all of them cost the same.
    """
    columns, space = _axes(samples)
    places = space.normalize(samples[:, columns])[0]
    different = len(np.unique(places, axis=0))
    cells = min(_CELLS, max(1, different // 2))
    centroids = cvt_centroids(cells, len(space), samples=places, seed=seed)
    return CVTArchive(space, centroids, quality_min=0.0, quality_max=1.0)


def _axes(samples: Floats) -> tuple[list[int], BehaviorSpace]:
    """Measures in the order of their priority, each kept where what it says beyond those before it exceeds the error;
    where none does, the first that differs at all."""
    measures = [_ranged(measure, samples[:, k]) for k, measure in enumerate(MEASURES)]
    kept: list[int] = []
    fitted: BehaviorSpace | None = None
    for error in (MODEL_ERROR, 0.0):
        for k in range(len(measures)):
            found = _fitted(measures, [*kept, k], samples)
            if found is not None and _resolution(found, error) >= 1 and (error or not kept):
                kept, fitted = [*kept, k], found
        if fitted is not None:
            return kept, fitted
    return [0], BehaviorSpace(measures[:1])


def _fitted(measures: Sequence[Measure], columns: list[int], samples: Floats) -> BehaviorSpace | None:
    try:
        return BehaviorSpace.fit([measures[k] for k in columns], samples[:, columns])
    except DescriptorError:
        return None  # the last one is constant, or follows from those before it


def _resolution(space: BehaviorSpace, error: float) -> float:
    """5 to 95 % range of the last axis before it is stretched, over twice the error."""
    measure, axis = space.measures[-1], space.axes[-1]
    ends = measure.stretch(np.array([measure.low, measure.high]))
    resolved = axis.spread * float(ends[1] - ends[0])
    blur = 2 * (log(1 + error) if measure.transform == "log" else error * (measure.high - measure.low))
    return resolved / blur if blur else float(resolved > 0) or 1.0


def _ranged(measure: Measure, values: Floats) -> Measure:
    """With the range that the design reached, and a little more."""
    if measure.transform != "log":
        return measure
    return replace(measure, low=float(values.min()) / _MARGIN, high=float(values.max()) * _MARGIN)
