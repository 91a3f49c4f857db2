"""The goals of the runtime: twice as fast as the best plain form, and core operations below a millisecond.

Times are of the wall clock on one thread: five runs to warm up, then all forms of a step in turns, sixty rounds or
more; medians, and ratios of medians with 95 % of the bootstrap over rounds. A goal is reached where the lower end of
the interval reaches it. Forms that take much longer are timed in three rounds of their own and have no interval.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from toolkit.bench.bootstrap import interval, median_draws, ratio_draws
from toolkit.bench.geometry.forms import STEPS, Forms
from toolkit.bench.geometry.operations import OPERATIONS
from toolkit.geometry.runtime.memory import live_bytes
from toolkit.geometry.runtime.vectorization import threads
from toolkit.timing import in_turns_s, spread_s

__all__ = ["FASTER", "MEAN", "UNDER_S", "Form", "Operation", "core_operations", "forms"]

FASTER, UNDER_S = 2.0, 1e-3
MEAN = "geometric mean"

_WARM_UPS, _FEWEST, _FEWEST_SLOW = 5, 60, 3
_SLOW = ("loop", "unfused, dot")


@dataclass(frozen=True, kw_only=True)
class Form:
    """A step in one of its forms.

    Args:
        operators: That torch runs; with `new_bytes` at most alive at once, the same on every machine.
        times: This form's time over the library's; in the library's own row the best plain form's over it, and in the
            last row the geometric mean of these.
    """

    step: str
    form: str
    threads: int
    rounds: int
    seconds: float | None
    quartiles_s: tuple[float, float] | None
    operators: int | None
    new_bytes: int | None
    times: float
    interval: tuple[float, float] | None


@dataclass(frozen=True, kw_only=True)
class Operation:
    """A core operation; `median_s` with 95 % of the bootstrap."""

    operation: str
    threads: int
    rounds: int
    median_s: float
    interval_s: tuple[float, float]
    operators: int


def forms(steps: Mapping[str, Callable[[], Forms]] = STEPS, *, seconds: float = 3.0) -> Iterator[Form]:
    """Every form of every step, the library's first, and the geometric mean over steps."""
    means = []
    for step, make in steps.items():
        with threads(1), torch.inference_mode(False):
            ways = make()
            runs = dict(ways)
            quick = {name: run for name, run in runs.items() if name not in _SLOW}
            taken = in_turns_s(quick, seconds=seconds, fewest=_FEWEST, warm_ups=_WARM_UPS)
            slow = {name: run for name, run in runs.items() if name in _SLOW}
            taken |= in_turns_s(slow, seconds=0.0, fewest=_FEWEST_SLOW, warm_ups=1) if slow else {}
        medians = {name: float(np.median(durations)) for name, durations in taken.items()}
        best = min(ways.plain, key=medians.__getitem__)
        draws = ratio_draws(taken[best], taken["library"], step)
        means.append((medians[best] / medians["library"], draws))
        for name, durations in taken.items():
            above = best if name == "library" else name
            with live_bytes() as used:
                runs[name]()
            lower, middle, upper = spread_s(durations)
            yield Form(
                step=step, form=name, threads=1, rounds=len(durations), seconds=middle, quartiles_s=(lower, upper),
                operators=used.operators, new_bytes=used.peak, times=medians[above] / medians["library"],
                interval=None if name in _SLOW else interval(ratio_draws(taken[above], taken["library"], step)),
            )  # fmt: skip
    logs = np.log([ratio for ratio, _ in means])
    yield Form(
        step=MEAN, form="library", threads=1, rounds=0, seconds=None, quartiles_s=None, operators=None, new_bytes=None,
        times=float(np.exp(logs.mean())),
        interval=interval(np.exp(np.mean([np.log(draws) for _, draws in means], axis=0))),
    )  # fmt: skip


def core_operations(
    operations: Mapping[str, Callable[[], Callable[[], object]]] = OPERATIONS, *, seconds: float = 5.0
) -> Iterator[Operation]:
    """Every operation, all in turns."""
    with threads(1):
        runs = {name: make() for name, make in operations.items()}
        taken = in_turns_s(runs, seconds=seconds, fewest=_FEWEST, warm_ups=_WARM_UPS)
    for name, durations in taken.items():
        with live_bytes() as used:
            runs[name]()
        yield Operation(operation=name, threads=1, rounds=len(durations), median_s=float(np.median(durations)),
                        interval_s=interval(median_draws(durations, name)), operators=used.operators)  # fmt: skip
