"""From runs to rows, and from rows to the product that is true."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np

from passes.dataset import Array
from toolkit.bench.training_cost.ablation import CLAIMED, FACTORS, Ablation
from toolkit.bench.training_cost.equal_quality import Factor, Verdict, factor, medians
from toolkit.bench.training_cost.methods import ablation
from toolkit.bench.training_cost.results import Results, Run, measure

__all__ = ["SEEDS", "Product", "Row", "measured", "product", "rows"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """An arm beside its baseline. `factors` are by cost; the first is the one that the verdict goes by.

    `missing` says why there are none.
    """

    method: str
    arm: str
    factor: str
    task: str
    claimed: float | None
    headline: bool
    machine: str = ""
    factors: tuple[Factor, ...] = ()
    missing: str = ""
    note: str = ""

    @property
    def verdict(self) -> str:
        """By the first of the factors."""
        return str(self.factors[0].verdict) if self.factors else "not measured"


@dataclass(frozen=True, kw_only=True)
class Product:
    """What the claimed factors come to.

    Args:
        by_factor: Median and interval of each, one where nothing measured helps.
        total, interval: Their product.
    """

    by_factor: Mapping[str, tuple[float, tuple[float, float]]]
    total: float
    interval: tuple[float, float]


SEEDS = 10
"""Of each method, where no other number is asked for and no more came with the toolkit."""


def measured(names: Sequence[str], seeds: int | None, results: Results, device: str, jobs: int) -> Iterator[Run]:
    """Every run that is wanted: those that are kept, and then those that are not, as they end.

    Args:
        seeds: Of each method; `SEEDS` or as many as came with the toolkit where None.
        jobs: Processes that measure; 0 measures nothing.
    """
    waiting: list[tuple[Ablation, str, int]] = []
    for name in names:
        what = ablation(name)
        for seed in range(seeds or max(SEEDS, results.shipped(what))):
            for arm in what.arms:
                kept = results.load(what, arm, seed)
                if kept is not None:
                    yield kept
                elif not what.hindered(device):
                    waiting.append((what, arm, seed))
    for what, run in _run(waiting, device, jobs) if jobs else ():
        results.store(what, run)
        yield run


def _run(waiting: Sequence[tuple[Ablation, str, int]], device: str, jobs: int) -> Iterator[tuple[Ablation, Run]]:
    if jobs == 1:
        for what, arm, seed in waiting:
            yield what, measure(what.name, arm, seed, device)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        tasks = [(what, pool.submit(measure, what.name, arm, seed, device)) for what, arm, seed in waiting]
        for what, task in tasks:
            yield what, task.result()


def rows(names: Iterable[str], runs: Sequence[Run], device: str = "cpu") -> Iterator[Row]:
    """A row for each arm beside a baseline, in the order of `names`."""
    for name in names:
        what = ablation(name)
        for arm in what.others:
            yield _row(what, arm, [run for run in runs if run.ablation == name], device)


def _row(what: Ablation, arm: str, runs: Sequence[Run], device: str) -> Row:
    base, other = (_by_seed(runs, name) for name in (what.baseline, arm))
    pairs = sorted(seed for seed in base if seed in other and base[seed].machine == other[seed].machine)
    machines = sorted({base[seed].machine for seed in pairs})
    plain, method = ({seed: side[seed].points for seed in pairs} for side in (base, other))
    known = [
        cost for cost in dict.fromkeys((what.cost, *what.costs))
        if pairs and all(points[-1].costs.get(cost, 0.0) > 0 for side in (plain, method) for points in side.values())
    ]  # fmt: skip
    return Row(
        method=what.name,
        arm=arm,
        factor=what.factor,
        task=what.task,
        claimed=what.claimed,
        headline=arm == what.headline,
        machine="; ".join(machines),
        factors=tuple(factor(plain, method, cost=cost, margin=what.margin, goal=what.goal) for cost in known),
        missing="" if pairs else what.hindered(device) or "no run of both arms on one machine is there",
        note=what.note,
    )


def _by_seed(runs: Sequence[Run], arm: str) -> dict[int, Run]:
    return {run.seed: run for run in runs if run.arm == arm}


def product(found: Sequence[Row], cost: str | None = None) -> Product:
    """The measured factors multiplied as the documents multiply theirs: the headline of each method that helps.

    A method that hurts or is undecided is off, and counts as one. The factors were measured apart; that they multiply
    is the documents' assumption.

    Args:
        cost: Count only what it saves of this; None for each method's own.
    """
    helping = [(row, _of(row, cost)) for row in found if row.headline]
    parts = {name: [f for row, f in helping if row.factor == name and f and f.verdict == Verdict.HELPS]
             for name in FACTORS}  # fmt: skip
    by_factor: dict[str, tuple[float, tuple[float, float]]] = {}
    drawn: Array = np.ones(1)
    for name, factors in parts.items():
        resampled = [medians(f.by_seed, f"{name} {position}") for position, f in enumerate(factors)]
        one: Array = np.prod(resampled, axis=0) if resampled else np.ones(1)
        by_factor[name] = (float(np.prod([f.median for f in factors])), _bounds(one))
        drawn = drawn * one
    total = float(np.prod([value for value, _ in by_factor.values()]))
    return Product(by_factor=by_factor, total=total, interval=_bounds(drawn))


def _of(row: Row, cost: str | None) -> Factor | None:
    if cost is None:
        return row.factors[0] if row.factors else None
    return next((f for f in row.factors if f.cost == cost), None)


def _bounds(values: Array) -> tuple[float, float]:
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)


def claimed_product() -> float:
    """The claimed factors multiplied."""
    return float(np.prod(list(CLAIMED.values())))
