"""Time ways of computing the same in turns, on a GPU by its own events and with a cold cache, else by the clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from toolkit.timing import in_turns_s

__all__ = ["seconds_in_turns"]

_ROUNDS = 15
_SECONDS = 0.5
_FEWEST_ROUNDS = 3
_LONGEST_S = 5.0
"""After which the fewest rounds are enough: some peers take seconds."""
_CACHE_BYTES = 256 * 2**20
_FLUSHES = 24
"""Zeroing that much so often takes a GPU two milliseconds: longer than the host takes to launch what is timed."""


def seconds_in_turns(ways: Mapping[str, Callable[[], Any]], device: torch.device) -> dict[str, list[float]]:
    """Every run's duration by name; the ways take turns, after two rounds that warm up, or one that is long enough."""
    if device.type != "cuda":
        return in_turns_s(ways, seconds=_SECONDS, fewest=5)
    flushed = torch.empty(_CACHE_BYTES, dtype=torch.int8, device=device)
    if _warm_up_s(ways, device) < _SECONDS:
        _warm_up_s(ways, device)
    taken: dict[str, list[float]] = {name: [] for name in ways}
    started = time.perf_counter()
    while not _enough(min(map(len, taken.values())), time.perf_counter() - started):
        for name, run in ways.items():
            taken[name].append(_event_seconds(run, flushed))
    return taken


def _warm_up_s(ways: Mapping[str, Callable[[], Any]], device: torch.device) -> float:
    started = time.perf_counter()
    for run in ways.values():
        run()
    torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _enough(rounds: int, elapsed_s: float) -> bool:
    if elapsed_s >= _LONGEST_S:
        return rounds >= _FEWEST_ROUNDS
    return rounds >= _ROUNDS and elapsed_s >= _SECONDS


def _event_seconds(run: Callable[[], Any], flushed: torch.Tensor) -> float:
    """What the GPU takes for one run, with a cold cache; it is kept busy while the host launches."""
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    for _ in range(_FLUSHES):
        flushed.zero_()
    flushed.view(torch.float32).sum()  # a cache full of what is to be written yet would be emptied in the time of `run`
    start.record()
    run()
    stop.record()
    stop.synchronize()
    return float(start.elapsed_time(stop)) / 1e3
