"""How much cheaper a method is where both arms are equally good: paired by seed, with an interval and a verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from passes.dataset import Array
from toolkit.bench.training_cost.metering import Point
from toolkit.rng import generator

__all__ = ["FEWEST_SEEDS", "Factor", "Verdict", "cost_of", "factor", "medians"]

FEWEST_SEEDS = 5
"""Of fewer, the median's 95 % interval is not bounded: no verdict."""

_RESAMPLES = 4000


class Verdict(StrEnum):
    """Whether the method is cheaper at equal quality."""

    HELPS = "helps"
    UNDECIDED = "undecided"
    HURTS = "hurts"


@dataclass(frozen=True, kw_only=True)
class Factor:
    """How many times less a method costs.

    Args:
        by_seed: Baseline's cost over the method's; 0 where the method did not get there.
        median: Of them; `interval` is its 95 % bootstrap interval.
        gain: Mean over seeds of the last quality less the baseline's.
    """

    cost: str
    by_seed: tuple[float, ...]
    median: float
    interval: tuple[float, float]
    reached: int
    gain: float
    verdict: Verdict


def factor(
    baseline: Mapping[int, Sequence[Point]], method: Mapping[int, Sequence[Point]], *, cost: str, margin: float = 0.0,
    goal: float | None = None,
) -> Factor:  # fmt: skip
    """Hold `method` against `baseline`, both by seed, on the seeds that both have.

    Equal is the baseline's last quality less `margin`, or `goal`. Where the baseline does not reach that, it is taken
    to have got there with its last step.

    Raises:
        ValueError: they have no seed in common, or the baseline of one was lost.
    """
    seeds = sorted(set(baseline) & set(method))
    if not seeds:
        raise ValueError("the arms have no seed in common")
    ratios = tuple(_ratio(baseline[seed], method[seed], cost, margin, goal) for seed in seeds)
    gains = [method[seed][-1].quality - baseline[seed][-1].quality for seed in seeds]
    low, high = (float(q) for q in np.quantile(medians(ratios, cost), (0.025, 0.975), method="inverted_cdf"))
    middle = float(np.median(ratios))
    verdict = Verdict.UNDECIDED
    if len(seeds) >= FEWEST_SEEDS:
        verdict = Verdict.HELPS if low > 1 else Verdict.HURTS if high < 1 else Verdict.UNDECIDED
    return Factor(
        cost=cost,
        by_seed=ratios,
        median=middle,
        interval=(low, high),
        reached=sum(ratio > 0 for ratio in ratios),
        gain=float(np.mean(gains)),
        verdict=verdict,
    )


def _ratio(baseline: Sequence[Point], method: Sequence[Point], cost: str, margin: float, goal: float | None) -> float:
    wanted = baseline[-1].quality - margin if goal is None else goal
    if not np.isfinite(wanted):
        raise ValueError("the baseline of a seed was lost: there is no quality to reach")
    before, after = cost_of(baseline, wanted, cost), cost_of(method, wanted, cost)
    if after is None:
        return 0.0
    return (baseline[-1].costs[cost] if before is None else before) / after


def cost_of(points: Sequence[Point], quality: float, cost: str) -> float | None:
    """What it cost to get to `quality`, on a straight line between two looks; None where that was never reached.

    A look that cost nothing yet does not count: an untrained model is no training.
    """
    last: Point | None = None
    for point in points:
        if point.quality >= quality and point.costs[cost] > 0:
            if last is None or last.quality >= quality or not np.isfinite(last.quality):
                return point.costs[cost]
            share = (quality - last.quality) / (point.quality - last.quality)
            return last.costs[cost] + share * (point.costs[cost] - last.costs[cost])
        last = point
    return None


def medians(ratios: Sequence[float], purpose: str) -> Array:
    """(resamples,) medians of as many ratios drawn with replacement.

    Source: Efron 1979, Annals of Statistics 7, 1-26.
    """
    rng = generator(0, "training cost", purpose)
    drawn = rng.integers(0, len(ratios), (_RESAMPLES, len(ratios)))
    found: Array = np.median(np.asarray(ratios)[drawn], axis=1)
    return found
