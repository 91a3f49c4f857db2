"""What a search's evaluations are worth, and which of several methods falls behind the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import fsum

import numpy as np

from toolkit.bench.search.problems import Point, Problem
from toolkit.rng import generator
from toolkit.search.archive import CVTArchive
from toolkit.search.hypervolume import hypervolume

__all__ = ["ALPHA", "Standing", "holm", "qd_score", "standings", "volume"]

ALPHA = 0.05
_RESAMPLES = 4000
_EQUAL = 1e-9
"""Scores that differ by less are the same sums in another order."""


def volume(problem: Problem, points: list[Point]) -> float:
    """Share of the rectangle from no quality at the slowest to all quality at the fastest that the front dominates."""
    return hypervolume(problem.goals(points), np.zeros(2))


def qd_score(problem: Problem, points: list[Point]) -> float:
    """Sum over the problem's cells of the best quality found in each."""
    archive = CVTArchive(problem.space, problem.centroids, quality_min=0.0, quality_max=1.0)
    cells = archive.cell_of(np.array([[p.latency_s, p.model_bytes] for p in points]))
    best: dict[int, float] = {}
    for cell, point in zip(cells.tolist(), points, strict=True):
        best[cell] = max(point.quality, best.get(cell, 0.0))
    return fsum(best.values())


@dataclass(frozen=True)
class Standing:
    """One method on one problem by one score.

    Args:
        interval: 95 %, of the mean over seeds by the bootstrap.
        p: Of a paired t-test that it is not below the best method, corrected by Holm; 1 for that method itself.
    """

    mean: float
    interval: tuple[float, float]
    p: float
    is_best: bool

    @property
    def is_below(self) -> bool:
        """Significantly below the best."""
        return self.p < ALPHA


def standings(scores: Mapping[str, Sequence[float]]) -> dict[str, Standing]:
    """Of methods by their scores, seed by seed."""
    means = {name: float(np.mean(values)) for name, values in scores.items()}
    best = max(means, key=lambda name: means[name])
    others = [name for name in scores if name != best]
    corrected = holm([_p_below(scores[name], scores[best]) for name in others])
    p = {best: 1.0} | dict(zip(others, corrected, strict=True))
    return {
        name: Standing(means[name], _interval(scores[name]), p[name], means[name] == means[best]) for name in scores
    }


def _p_below(scores: Sequence[float], best: Sequence[float]) -> float:
    """One-sided paired t-test. Differences that are all the same are beyond doubt, or none."""
    from scipy.stats import ttest_1samp

    differences = np.asarray(scores) - np.asarray(best)
    if np.ptp(differences) <= _EQUAL:
        return 0.0 if differences.mean() < -_EQUAL else 1.0
    return float(ttest_1samp(differences, 0.0, alternative="less").pvalue)


def holm(values: Sequence[float]) -> list[float]:
    """p-values of a family, corrected: the chance of one false alarm is what it was for one. Source: Holm 1979."""
    order = np.argsort(values, kind="stable")
    corrected, reached = [0.0] * len(values), 0.0
    for rank, at in enumerate(order.tolist()):
        reached = max(reached, min(1.0, (len(values) - rank) * values[at]))
        corrected[at] = reached
    return corrected


def _interval(scores: Sequence[float]) -> tuple[float, float]:
    rng = generator(0, "search bench", "bootstrap")
    drawn = np.asarray(scores)[rng.integers(0, len(scores), (_RESAMPLES, len(scores)))].mean(1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(low), float(high)
