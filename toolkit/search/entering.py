"""How a result enters the archive: as what candidate, and whether a better one still might."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from toolkit.search.archive import CVTArchive
from toolkit.search.elites import Candidate
from toolkit.search.search_settings import broken
from toolkit.search.trials import Evaluated, Trial

__all__ = ["candidate_of", "may_enter"]

Limits = Mapping[str, tuple[float, float]]


def candidate_of(trial: Trial, result: Evaluated, archive: CVTArchive, limits: Limits) -> Candidate:
    """What the archive is given; `limits` that the result breaks add to its violation."""
    measures = np.array([result.measures[name] for name in archive.space.names])
    violation = result.violation + broken(limits, result.measures)
    meta = {"trial": trial.id, "emitter": trial.emitter, "fidelity": trial.fidelity, **result.meta}
    return Candidate(dict(trial.config), measures, result.quality, result.n, result.m2, violation,
                     meta=meta, parents=trial.parents)  # fmt: skip


def may_enter(result: Evaluated, quality: float, archive: CVTArchive, limits: Limits) -> bool:
    """Whether the archive as it is would take `result` if it were of `quality`."""
    measures = np.array([[result.measures[name] for name in archive.space.names]])
    cell = int(archive.cell_of(measures)[0])
    elite = archive.get(cell) if cell >= 0 else None
    if elite is None:
        return cell >= 0
    violation = result.violation + broken(limits, result.measures)
    return violation < elite.violation or (violation == elite.violation and quality >= elite.quality)
