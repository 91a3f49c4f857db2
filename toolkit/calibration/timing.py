"""Seconds of one inference through onnxruntime, as rows of measurements hold them."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

from passes.dataset import Sample
from passes.onnxruntime import Session

__all__ = ["FEWEST", "fastest_half_s", "latency_s"]

FEWEST = 12
_FINE_THREAD_CLOCK = time.get_clock_info("thread_time").resolution < 1e-6
_WARM_UP = 3


def latency_s(model: bytes, sample: Sample, *, threads: int = 1, seconds: float = 2.0) -> float:
    """The median of the fastest half of the runs: what the machine does besides slows the other half.

    Args:
        model: The serialized ModelProto.
        seconds: At least, of runs.
    """
    started = time.perf_counter()
    return fastest_half_s(
        Session(model, threads=threads),
        sample,
        threads=threads,
        enough=lambda runs: runs >= FEWEST and time.perf_counter() - started >= seconds,
    )


def fastest_half_s(session: Session, sample: Sample, *, threads: int, enough: Callable[[int], bool]) -> float:
    """The same of a session that is there, with runs until `enough` says so of their number.

    One thread is timed by the clock that stands still while another process has its core.
    """
    for _ in range(_WARM_UP):
        session(sample)
    clock = time.thread_time if threads == 1 and _FINE_THREAD_CLOCK else time.perf_counter
    times: list[float] = []
    while not enough(len(times)):
        before = clock()
        session(sample)
        times.append(clock() - before)
    return median(sorted(times)[: (len(times) + 1) // 2])
