"""One arm held against another, paired by seed: a mean difference, its interval, and one of four words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

import numpy as np
from scipy import stats

from toolkit.rng import numpy_generator

__all__ = ["FEWEST_SEEDS", "Better", "Compared", "Verdict", "compare", "holm"]

FEWEST_SEEDS = 5
"""Of fewer, a bootstrap over seeds says nothing: no verdict."""

_ALPHA = 0.05
_RESAMPLES = 4000

Better = Literal["lower", "higher"]


class Verdict(StrEnum):
    """What an arm is beside another. Undecided is a result."""

    BETTER = "better"
    WORSE = "worse"
    EQUIVALENT = "equivalent"
    UNDECIDED = "undecided"


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One measure of two arms.

    Args:
        differences: Arm less the other, one a seed.
        mean: Of them; `interval` is its 95 % bootstrap interval.
        wilcoxon_p: Of the signed ranks; `holm_p` is corrected for the other contrasts of the ablation.
        equivalence_p: The larger of two one-sided t tests against the margin.
    """

    differences: tuple[float, ...]
    mean: float
    interval: tuple[float, float]
    wilcoxon_p: float
    equivalence_p: float
    verdict: Verdict
    holm_p: float = 1.0


def compare(arm: Sequence[float], other: Sequence[float], *, margin: float, better: Better) -> Compared:
    """Hold `arm` against `other`, both by seed.

    Equivalent: both one-sided tests say that the difference is within `margin`, whichever side of 0 it lies on. Else
    better or worse: the interval lies on one side of 0. Else, or of fewer than `FEWEST_SEEDS`, or where a run was lost
    (its measure is not finite): undecided.

    Raises:
        ValueError: they are not paired, or there is no seed.

    Source: Efron 1979 (bootstrap); Schuirmann 1987 (equivalence); Wilcoxon 1945.
    """
    if len(arm) != len(other) or not arm:
        raise ValueError(f"{len(arm)} values beside {len(other)}: give one of each seed")
    gaps = np.asarray(arm, np.float64) - np.asarray(other, np.float64)
    if not np.isfinite(gaps).all():
        nothing = (float("-inf"), float("inf"))
        return Compared(differences=tuple(gaps.tolist()), mean=float("nan"), interval=nothing, wilcoxon_p=1.0,
                        equivalence_p=1.0, verdict=Verdict.UNDECIDED)  # fmt: skip
    interval = _interval(gaps)
    apart = _wilcoxon(gaps)
    within = _equivalence(gaps, margin)
    return Compared(
        differences=tuple(gaps.tolist()),
        mean=float(gaps.mean()),
        interval=interval,
        wilcoxon_p=apart,
        equivalence_p=within,
        verdict=_verdict(len(gaps), interval, within, better),
    )


def _verdict(seeds: int, interval: tuple[float, float], within: float, better: Better) -> Verdict:
    if seeds < FEWEST_SEEDS:
        return Verdict.UNDECIDED
    if within < _ALPHA:
        return Verdict.EQUIVALENT
    low, high = interval
    if low <= 0 <= high:
        return Verdict.UNDECIDED
    return Verdict.BETTER if (high < 0) == (better == "lower") else Verdict.WORSE


def _interval(gaps: np.ndarray) -> tuple[float, float]:  # type: ignore[type-arg]
    drawn = numpy_generator(0, "ablation", "bootstrap", len(gaps)).integers(0, len(gaps), (_RESAMPLES, len(gaps)))
    low, high = np.quantile(gaps[drawn].mean(1), (0.025, 0.975))
    return float(low), float(high)


def _wilcoxon(gaps: np.ndarray) -> float:  # type: ignore[type-arg]
    return 1.0 if not gaps.any() else float(stats.wilcoxon(gaps).pvalue)


def _equivalence(gaps: np.ndarray, margin: float) -> float:  # type: ignore[type-arg]
    if len(gaps) < 2 or margin <= 0:
        return 1.0
    if np.ptp(gaps) == 0:  # without scatter a t test divides by 0
        return 0.0 if abs(gaps[0]) < margin else 1.0
    above = stats.ttest_1samp(gaps, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(gaps, margin, alternative="less").pvalue
    return float(max(above, below))


def holm(found: Mapping[str, Compared]) -> dict[str, Compared]:
    """The same, each with its Wilcoxon p corrected for there being several. Source: Holm 1979."""
    ordered = sorted(found, key=lambda name: found[name].wilcoxon_p)
    corrected, highest = {}, 0.0
    for position, name in enumerate(ordered):
        highest = max(highest, min(1.0, found[name].wilcoxon_p * (len(ordered) - position)))
        corrected[name] = replace(found[name], holm_p=highest)
    return {name: corrected[name] for name in found}
