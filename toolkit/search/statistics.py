"""What an archive is worth: how many cells it fills, how well, and how much of that is luck."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import fsum, sqrt

import numpy as np

from toolkit.errors import DescriptorError
from toolkit.search.archive import CVTArchive
from toolkit.search.elites import Elite, Evaluation
from toolkit.search.hypervolume import hypervolume
from toolkit.search.measures import Floats

__all__ = ["ArchiveStats", "Corrected", "continuous_score", "front_volume", "reevaluate", "statistics"]


@dataclass(frozen=True, kw_only=True)
class ArchiveStats:
    """Numbers of one archive.

    Args:
        cells: All there are.
        occupied: Those that hold an elite.
        qd_score: Sum over occupied cells of the best quality less `quality_min`. Pugh et al. 2016.
        best: Greatest quality; None of an empty archive.
    """

    cells: int
    occupied: int
    elites: int
    qd_score: float
    qd_norm: float
    best: float | None
    seen: int
    nbytes: int

    @property
    def coverage(self) -> float:
        """Share of the cells that hold an elite."""
        return self.occupied / self.cells


def statistics(archive: CVTArchive) -> ArchiveStats:
    """Of `archive`. The score is summed exactly, in the order of the cells: no drift, whatever came first."""
    best = [_best(archive, int(cell)) for cell in archive.occupied]
    score = fsum(quality - archive.quality_min for quality in best)
    whole = len(archive.cells) * (archive.quality_max - archive.quality_min)
    return ArchiveStats(cells=len(archive.cells), occupied=len(best), elites=len(archive), qd_score=score,
                        qd_norm=score / whole, best=max(best, default=None), seen=archive.seen,
                        nbytes=archive.nbytes)  # fmt: skip


def _best(archive: CVTArchive, cell: int) -> float:
    elite = archive.get(cell)
    assert elite is not None
    return elite.quality


def front_volume(archive: CVTArchive, goals: dict[str, bool], reference: Floats) -> float:
    """Hypervolume of the feasible elites over quality and measures.

    Args:
        goals: Measure (or "quality"), and whether larger is better.
        reference: (goals,) the worst that counts, in raw units.

    Raises:
        DescriptorError: a goal is no measure, or the reference has another length.
    """
    names = (*archive.space.names, "quality")
    if len(reference) != len(goals) or not set(goals) <= set(names):
        raise DescriptorError(
            f"no hypervolume of {sorted(goals)} against {len(reference)} values", hint=f"goals: {', '.join(names)}"
        )
    columns = [names.index(name) for name in goals]
    senses = np.where(list(goals.values()), 1.0, -1.0)
    rows = [[*elite.measures.tolist(), elite.quality] for elite in archive if elite.violation == 0]
    if not rows:
        return 0.0
    return hypervolume(np.array(rows)[:, columns] * senses, np.asarray(reference) * senses)


def continuous_score(archive: CVTArchive, targets: Floats, penalties: Floats) -> float:
    """Mean over `targets` (t, m), places in the unit cube, and `penalties` (p,) of the best worth of an elite there.

    Worth is (quality - quality_min) / (quality_max - quality_min) - penalty x distance / greatest distance; nothing
    changes when all qualities and both bounds move together. Source: Kent, Branke, Gaier, Mouret 2022 (CQD score).
    """
    elites = list(archive)
    if not elites:
        return 0.0
    worth = np.array([e.quality for e in elites]) - archive.quality_min
    worth /= archive.quality_max - archive.quality_min
    places = np.array([e.unit for e in elites])
    distance = np.sqrt(np.square(targets[:, None] - places[None]).sum(2)) / sqrt(places.shape[1])
    return float(np.mean([(worth - penalty * distance).max(1).mean() for penalty in penalties]))


@dataclass(frozen=True, kw_only=True)
class Corrected:
    """An archive measured again.

    Args:
        archive: The same elites with the new measurements alone.
        before: Mean quality that the elites were kept for.
        after: Mean quality when they were measured again.
    """

    archive: CVTArchive
    before: float
    after: float

    @property
    def inflation(self) -> float:
        """By how much the search had flattered itself."""
        return self.before - self.after


def reevaluate(archive: CVTArchive, measure: Callable[[Elite, int], float], *, repeats: int) -> Corrected:
    """Measure every elite `repeats` times, on data that the search never saw.

    The best of many noisy tries is better than it is: only these values are to be published.

    Args:
        measure: Quality of an elite; the number says which repeat it is.

    Raises:
        DescriptorError: the archive is empty, or `repeats` is below 1.
    """
    if repeats < 1 or not len(archive):
        raise DescriptorError("nothing to measure again", hint="give elites and at least one repeat")
    again = archive.empty()
    pairs = []
    for elite in archive:
        qualities = np.array([measure(elite, repeat) for repeat in range(repeats)], np.float64)
        mean = float(qualities.mean())
        evaluation = Evaluation(mean, repeats, float(np.square(qualities - mean).sum()))
        again.add([elite.candidate()._replace(quality=mean, n=evaluation.n, m2=evaluation.m2, parents=())])
        pairs.append((elite.quality, mean))
    before, after = np.array(pairs).mean(0)
    return Corrected(archive=again, before=float(before), after=float(after))
