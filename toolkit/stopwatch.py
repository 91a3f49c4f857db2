"""What bundles take on this machine: loaded nine times, each time run in turns with the others.

Where a load puts the weights decides a few percent, and neighbours in time are alike: the nine medians are what an
interval is made of. From the second to the eighth it holds the median of all such with 96 % (order statistics).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from passes.dataset import Sample
from targets.errors import InvalidInput, UnknownName, UsageError
from targets.stack import Stack
from targets.target import Target, load_stack, load_target
from toolkit.backends import BACKENDS
from toolkit.bundle.bundle import Bundle
from toolkit.calibration.setting import check_threads, processor
from toolkit.measuring import is_of_this_kind
from toolkit.report.reading import read_document
from toolkit.timing import in_blocks_s, spread_s

__all__ = ["Stopwatch", "Timed", "ratio"]

_SECONDS, _LOADS = 2.0, 9


@dataclass(frozen=True, kw_only=True)
class Timed:
    """The runs of one bundle on its first golden sample, by the clock on the wall.

    Args:
        ran: What ran, and in what.
        machine: What this one calls itself.
        firsts_s: Loading the artefact and its first answer, each time; runtime and file are in memory by then.
        loads_s: Every run that counts, by load.
        estimate_s: What the bundle predicts for its stack, with its interval, from `provenance`; perhaps extrapolated.
        incomparable: Why the prediction is not of what ran here; empty where it may be.
    """

    bundle: Path
    stack: str
    ran: str
    machine: str
    threads: int
    firsts_s: Sequence[float]
    loads_s: Sequence[Sequence[float]]
    estimate_s: tuple[float, float, float]
    provenance: str
    extrapolated: bool
    incomparable: str

    @cached_property
    def medians_s(self) -> list[float]:
        """Of each load's runs."""
        return [median(runs) for runs in self.loads_s]

    @property
    def latency_s(self) -> float:
        return median(self.medians_s)

    @property
    def interval_s(self) -> tuple[float, float]:
        """Of this median; another process may lie outside."""
        return _inner(self.medians_s)

    @property
    def first_s(self) -> float:
        return median(self.firsts_s)

    @property
    def runs_s(self) -> list[float]:
        return list(chain.from_iterable(self.loads_s))

    @property
    def slow_s(self) -> float:
        """What one run in twenty exceeds."""
        return float(np.quantile(self.runs_s, 0.95))

    @property
    def predicted(self) -> bool:
        """Whether the estimate's interval holds this time."""
        _, low, high = self.estimate_s
        return low <= self.latency_s <= high

    def to_json(self) -> dict[str, Any]:
        low, _, high = spread_s(self.runs_s)
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
            "extrapolated": self.extrapolated,
            "incomparable": self.incomparable,
        }


def ratio(above: Timed, below: Timed) -> tuple[float, tuple[float, float]]:
    """Of two that ran in turns: the median of the loads' ratios, and its interval."""
    ratios = [one / other for one, other in zip(above.medians_s, below.medians_s, strict=True)]
    return median(ratios), _inner(ratios)


def _inner(values: Sequence[float]) -> tuple[float, float]:
    """All but the least and the most."""
    ordered = sorted(values)
    return ordered[1], ordered[-2]


class Stopwatch:
    """Bundles that can be timed here.

    Args:
        threads: Of one operator; as many as the bundle's stack says, but no more than there are here, where None.

    Raises:
        UsageError: more threads than there are, or than an artefact takes; an artefact that is emulated here.
        MissingDependency: this machine cannot run an artefact.
        InvalidInput: a bundle's files are damaged, or this version does not know its stack.
    """

    def __init__(self, bundles: Sequence[Bundle], threads: int | None = None) -> None:
        check_threads(threads)
        self._ready = [_Ready(bundle, threads) for bundle in bundles]

    def times(
        self, *, seconds: float = _SECONDS, progress: Callable[[str, float], None] = lambda step, done: None
    ) -> list[Timed]:
        """Run each bundle's first golden sample, in turns of some runs, so that a busy minute falls on all alike.

        Args:
            seconds: For each bundle, at least.
        """
        for load in range(_LOADS):
            for one in self._ready:
                one.load()
            first = load % len(self._ready)
            taken = in_blocks_s(
                {one: one.run for one in self._ready[first:] + self._ready[:first]},
                seconds=seconds * len(self._ready) / _LOADS,
                progress=partial(_tell, progress, load),
            )
            for one, blocks_s in taken.items():
                one.loads_s.append(list(chain.from_iterable(blocks_s)))
        return [one.timed() for one in self._ready]


def _tell(progress: Callable[[str, float], None], load: int, done: float) -> None:
    progress("running", (load + done) / _LOADS)


class _Ready:
    """One of them."""

    def __init__(self, bundle: Bundle, threads: int | None) -> None:
        self._path, self._artifact = bundle.path, bundle.artifact
        self._stack = _stack_of(bundle)
        self._backend = BACKENDS[self._stack.backend]
        self._file = bundle.path / self._artifact.file
        if self._artifact.format == "executable" and threads not in (None, 1):
            raise UsageError(f"{self._file} runs on one thread", hint="leave --threads out")
        self._threads = threads or min(self._stack.threads or 1, os.cpu_count() or 1)
        self._ran = self._backend.runs_here(self._file)
        self._report = read_document(bundle)
        self._sample = bundle.golden[0].inputs
        bundle.signature.check_inputs(self._sample)
        self._call: Callable[[Sample], object] = self._loaded()  # imports the runtime
        self._firsts_s: list[float] = []
        self.loads_s: list[list[float]] = []

    def _loaded(self) -> Callable[[Sample], object]:
        return self._backend.load(self._file, threads=self._threads)

    def load(self) -> None:
        started = time.perf_counter()
        self._call = self._loaded()
        self.run()
        self._firsts_s.append(time.perf_counter() - started)

    def run(self) -> None:
        self._call(self._sample)

    def timed(self) -> Timed:
        after = self._report.after
        return Timed(
            bundle=self._path,
            stack=self._stack.id,
            ran=self._ran,
            machine=processor(),
            threads=self._threads,
            firsts_s=self._firsts_s,
            loads_s=self.loads_s,
            estimate_s=(after.latency_s, *after.latency_interval_s),
            provenance=self._report.estimate.provenance,
            extrapolated=after.extrapolated,
            incomparable=self._incomparable(),
        )

    def _incomparable(self) -> str:
        if not _is_here(load_target(self._stack.target)):
            return "this is another machine"
        if self._artifact.format == "executable":
            return "starting the program is part of each run here"
        if not self._artifact.complete or self._artifact.checked:
            return "it is of another runtime"
        asked = self._stack.threads or 1
        return "" if self._threads == asked else f"it is for {asked} thread{'s' if asked > 1 else ''}"


def _stack_of(bundle: Bundle) -> Stack:
    name = bundle.manifest["stack"]
    try:
        return load_stack(name)
    except UnknownName as error:
        raise InvalidInput(
            f"{bundle.path} is for {name}, which this version does not know", hint="compile again with this version"
        ) from error


def _is_here(target: Target) -> bool:
    """Whether this is the target; a board says its name, of a desktop the kind of processor must do."""
    is_board = str(target.parameters.get("isa", "")).startswith("arm")
    name = target.title.partition(",")[0].replace("+", " Plus")
    return is_of_this_kind(target) and (not is_board or name in processor())
