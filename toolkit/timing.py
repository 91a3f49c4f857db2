"""Time alternatives side by side: in turns, so that whatever else the machine does falls on all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median

__all__ = ["in_turns_s", "spread_s"]


def in_turns_s(
    alternatives: Mapping[str, Callable[[], object]],
    *,
    seconds: float = 3.0,
    fewest: int = 15,
    warm_ups: int = 2,
    clock: Callable[[], float] = time.perf_counter,
    progress: Callable[[float], None] = lambda done: None,
) -> dict[str, list[float]]:
    """Every run's duration by name, in the order of the rounds; each alternative is warmed up, then all run in turns.

    Args:
        seconds: For all of them together, at least.
        fewest: Runs of each, at least.
        warm_ups: Runs of each before, which are not counted.
        clock: `time.process_time` counts what this process computes, which others on the machine disturb less.
        progress: Told after each round how much of all is done, from 0 to 1.
    """
    for run in alternatives.values():
        for _ in range(warm_ups):
            run()
    taken: dict[str, list[float]] = {name: [] for name in alternatives}
    started = time.perf_counter()
    rounds, passed = 0, 0.0
    while rounds < fewest or passed < seconds:
        for name, run in alternatives.items():
            start = clock()
            run()
            taken[name].append(clock() - start)
        rounds, passed = rounds + 1, time.perf_counter() - started
        progress(min(rounds / fewest, passed / seconds if seconds else 1.0, 1.0))
    return taken


def spread_s(durations: list[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile."""
    ordered = sorted(durations)
    quarter = len(ordered) // 4
    return ordered[quarter], median(ordered), ordered[-1 - quarter]
