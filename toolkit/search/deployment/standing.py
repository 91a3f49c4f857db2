"""How good a search was, in the numbers by which searches are compared."""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import numpy as np

from toolkit.search.archive import CVTArchive
from toolkit.search.hypervolume import hypervolume
from toolkit.search.statistics import statistics

__all__ = ["Standing", "standing"]


@dataclass(frozen=True)
class Standing:
    """Of one archive.

    Args:
        cells: All there are; `occupied` hold a deployment.
        qd_score: Sum of the best qualities of all cells.
        hypervolume: Under the front of quality against latency, of elites that keep the limits: 1 were quality 1 at the
            lowest latency of the archive's range, 0 is nothing below the highest; latency counts by factors. None
            where latency is no axis.
    """

    cells: int
    occupied: int
    coverage: float
    qd_score: float
    best_quality: float | None
    hypervolume: float | None


def standing(archive: CVTArchive) -> Standing:
    """Of `archive` as it is."""
    found = statistics(archive)
    return Standing(found.cells, found.occupied, found.coverage, found.qd_score, found.best, _under_front(archive))


def _under_front(archive: CVTArchive) -> float | None:
    measures = {measure.name: measure for measure in archive.space.measures}
    if "latency_s" not in measures:
        return None
    low, high = (log(end) for end in (measures["latency_s"].low, measures["latency_s"].high))
    feasible = [elite for elite in archive if elite.violation == 0]
    if not feasible:
        return 0.0
    quick = [(high - log(e.meta["measures"]["latency_s"])) / (high - low) for e in feasible]
    return hypervolume(np.column_stack([[e.quality for e in feasible], quick]), np.zeros(2))
