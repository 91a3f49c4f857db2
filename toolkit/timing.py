"""Time alternatives side by side: in turns, so that whatever else the machine does falls on all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import TypeVar

__all__ = ["in_blocks_s", "in_turns_s", "spread_s"]

Name = TypeVar("Name")


def in_turns_s(
    alternatives: Mapping[str, Callable[[], object]],
    *,
    seconds: float = 3.0,
    fewest: int = 15,
    warm_ups: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Every run's duration by name, in the order of the rounds; each alternative is warmed up, then all run in turns.

    Args:
        seconds: For all of them together, at least.
        fewest: Runs of each, at least.
        warm_ups: Runs of each before, which are not counted.
        clock: `time.process_time` counts what this process computes, which others on the machine disturb less.
    """
    for run in alternatives.values():
        for _ in range(warm_ups):
            run()
    taken: dict[str, list[float]] = {name: [] for name in alternatives}
    started = time.perf_counter()
    while min(map(len, taken.values())) < fewest or time.perf_counter() - started < seconds:
        for name, run in alternatives.items():
            start = clock()
            run()
            taken[name].append(clock() - start)
    return taken


def in_blocks_s(
    alternatives: Mapping[Name, Callable[[], object]],
    *,
    seconds: float,
    block_s: float = 0.02,
    fewest: int = 1,
    clock: Callable[[], float] = time.perf_counter,
    progress: Callable[[float], None] = lambda done: None,
) -> dict[Name, list[list[float]]]:
    """Every run's duration by name and block, in the order of the rounds: times of alternatives that run alone, later.

    In a round each runs for a while by itself and so finds its own data in the caches; the first run of a block, which
    finds the neighbour's, is not counted. Another alternative begins each round.

    Args:
        seconds: For all of them together, at least.
        block_s: Of one alternative in one round, at least; and at least one run.
        fewest: Rounds, at least.
        progress: Told after each round how much of all is done, from 0 to 1.
    """
    names = list(alternatives)
    taken: dict[Name, list[list[float]]] = {name: [] for name in names}
    started, rounds, passed = clock(), 0, 0.0
    while rounds < fewest or passed < seconds:
        for name in names:
            taken[name].append(_block(alternatives[name], block_s, clock))
        names = [*names[1:], names[0]]
        rounds, passed = rounds + 1, clock() - started
        progress(min(rounds / fewest, passed / seconds if seconds else 1.0, 1.0))
    return taken


def _block(run: Callable[[], object], block_s: float, clock: Callable[[], float]) -> list[float]:
    run()
    durations: list[float] = []
    started = ended = clock()
    while not durations or ended - started < block_s:
        before = clock()
        run()
        ended = clock()
        durations.append(ended - before)
    return durations


def spread_s(durations: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile."""
    ordered = sorted(durations)
    quarter = len(ordered) // 4
    return ordered[quarter], median(ordered), ordered[-1 - quarter]
