"""What bundles take on this machine: each is loaded and answers once, then all run in turns."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from targets.target import load_stack, load_target
from toolkit.backends import BACKENDS
from toolkit.bootstrap import interval, median_draws, ratio_draws
from toolkit.bundle.bundle import Bundle
from toolkit.calibration.setting import processor
from toolkit.measuring import is_of_this_kind
from toolkit.timing import in_turns_s, spread_s

__all__ = ["Timed", "ratio", "time_bundles"]

_SECONDS, _FEWEST, _WARM_UPS, _STRETCHES = 2.0, 15, 3, 100


@dataclass(frozen=True, kw_only=True)
class Timed:
    """The runs of one bundle on its first golden sample, by the clock on the wall.

    Args:
        ran: What ran, and in what.
        machine: What this one calls itself.
        first_s: Loading the artefact and its first answer.
        runs_s: Every run after the first few, in the order of the rounds.
        estimate_s: What the bundle predicts for its stack, with its interval, from `provenance`.
        incomparable: Why the prediction is not of what ran here; empty where it is.
    """

    bundle: Path
    stack: str
    ran: str
    machine: str
    threads: int
    first_s: float
    runs_s: Sequence[float]
    estimate_s: tuple[float, float, float]
    provenance: str
    incomparable: str

    @cached_property
    def stretches_s(self) -> list[float]:
        """Medians of up to 100 stretches of runs: neighbours in time share what the machine does besides."""
        return [float(np.median(part)) for part in np.array_split(self.runs_s, min(_STRETCHES, len(self.runs_s)))]

    @property
    def latency_s(self) -> float:
        """The median of the stretches."""
        return median(self.stretches_s)

    @property
    def interval_s(self) -> tuple[float, float]:
        """Of this median: 95 % of those of stretches drawn again."""
        return interval(median_draws(self.stretches_s))

    @property
    def slow_s(self) -> float:
        """What one run in twenty exceeds."""
        return float(np.quantile(self.runs_s, 0.95))

    def to_json(self) -> dict[str, Any]:
        low, _, high = spread_s(list(self.runs_s))
        return {
            "bundle": str(self.bundle),
            "stack": self.stack,
            "ran": self.ran,
            "machine": self.machine,
            "threads": self.threads,
            "runs": len(self.runs_s),
            "first_s": self.first_s,
            "latency_s": self.latency_s,
            "latency_interval_s": list(self.interval_s),
            "quartiles_s": [low, high],
            "slow_s": self.slow_s,
            "estimate_s": self.estimate_s[0],
            "estimate_interval_s": list(self.estimate_s[1:]),
            "provenance": self.provenance,
            "incomparable": self.incomparable,
        }


def time_bundles(
    bundles: Sequence[Bundle],
    *,
    threads: int | None = None,
    seconds: float = _SECONDS,
    progress: Callable[[str, float], None] = lambda step, done: None,
) -> list[Timed]:
    """Run each bundle's first golden sample in turns with the others, so that a busy minute falls on all alike.

    Args:
        threads: Of one operator; as many as the bundle's stack says, or one, where None.
        seconds: For each bundle, at least; and at least 15 runs of each.

    Raises:
        UsageError: an artefact is emulated here.
        UnknownName: this version does not know a bundle's stack.
        MissingDependency: this machine cannot run an artefact.
        InvalidInput: a bundle's files are damaged.
    """
    ready = [_Ready(bundle, threads) for bundle in bundles]
    for one in ready:
        progress("loading", 0.0)
        one.load()
    taken = in_turns_s(
        {str(i): one.run for i, one in enumerate(ready)},
        seconds=seconds * len(bundles),
        fewest=_FEWEST,
        warm_ups=_WARM_UPS,
        progress=partial(progress, "running"),
    )
    return [one.timed(runs_s) for one, runs_s in zip(ready, taken.values(), strict=True)]


class _Ready:
    """A bundle that can be timed here; raises what `time_bundles` does."""

    def __init__(self, bundle: Bundle, threads: int | None) -> None:
        self._bundle, self._stack = bundle, load_stack(bundle.manifest["stack"])
        self._backend, self._artifact = BACKENDS[self._stack.backend], bundle.artifact
        self._file = bundle.path / self._artifact.file
        self._threads = threads or min(self._stack.threads or 1, os.cpu_count() or 1)
        self._ran = self._backend.runs_here(self._file)
        self._sample = bundle.golden[0].inputs
        bundle.signature.check_inputs(self._sample)

    def load(self) -> None:
        started = time.perf_counter()
        self._call = self._backend.load(self._file, threads=self._threads)
        self.run()
        self._first_s = time.perf_counter() - started

    def run(self) -> None:
        self._call(self._sample)

    def timed(self, runs_s: Sequence[float]) -> Timed:
        report = self._bundle.report
        after = report["after"]
        return Timed(
            bundle=self._bundle.path,
            stack=self._stack.id,
            ran=self._ran,
            machine=processor(),
            threads=self._threads,
            first_s=self._first_s,
            runs_s=runs_s,
            estimate_s=(after["latency_s"], *after["latency_interval_s"]),
            provenance=report["estimate"]["provenance"],
            incomparable=self._incomparable(),
        )

    def _incomparable(self) -> str:
        if not is_of_this_kind(load_target(self._stack.target)):
            return "this machine is of another kind"
        if self._artifact.format == "executable":
            return "starting the program is part of each run here"
        if not self._artifact.complete or self._artifact.checked:
            return "it is of another runtime"
        asked = self._stack.threads or 1
        return "" if self._threads == asked else f"it is of {asked} threads"


def ratio(above: Timed, below: Timed) -> tuple[float, tuple[float, float]]:
    """Of two that ran in turns: of their medians, and its 95 % interval over stretches drawn again."""
    return above.latency_s / below.latency_s, interval(ratio_draws(above.stretches_s, below.stretches_s))
