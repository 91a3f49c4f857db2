"""What a training has cost so far, and how good it was at each look: processor time, FLOPs, samples."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isfinite

import torch
from torch.utils.flop_counter import FlopCounterMode

from toolkit.training.watching import Epoch, Unwatched

__all__ = ["Meter", "Point"]


@dataclass(frozen=True)
class Point:
    """A look at a training: its quality (higher is better, minus infinity where it is lost) and the costs up to it."""

    quality: float
    costs: Mapping[str, float] = field(default_factory=dict)


class Meter:
    """Charges an arm for its steps, and notes its quality between them.

    `time_s` is processor time on a CPU (other processes do not count), elapsed time on a GPU. The first step of a kind
    is run under torch's FLOP counter, which slows it down; it is charged the time of the second.
    """

    def __init__(self, device: str = "cpu") -> None:
        self.device = torch.device(device)
        self.points: list[Point] = []
        self._costs: dict[str, float] = defaultdict(float, time_s=0.0, flops=0.0, samples=0.0)
        self._flops: dict[str, int] = {}
        self._first_s: dict[str, float] = {}

    @contextmanager
    def step(self, kind: str, *, samples: int = 0) -> Iterator[None]:
        """A block of work that is charged. Those of one kind do equal work; `samples` are those it learnt from."""
        counter = FlopCounterMode(display=False) if kind not in self._flops else None
        started = self._now_s()
        if counter is None:
            yield
        else:
            with counter:
                yield
            self._flops[kind] = counter.get_total_flops()
        taken_s = self._now_s() - started
        self._costs["time_s"] += taken_s
        if counter is not None:
            self._first_s[kind] = taken_s
        elif kind in self._first_s:
            self._costs["time_s"] += taken_s - self._first_s.pop(kind)
        self._costs["flops"] += self._flops[kind]
        self._costs["samples"] += samples

    def spend(self, cost: str, amount: float) -> None:
        """Charge what a step cannot see: labels that were asked for, FLOPs that torch does not count."""
        self._costs[cost] += amount

    def gauge(self, cost: str, value: float) -> None:
        """Set a cost that does not add up, such as the largest memory held."""
        self._costs[cost] = value

    def judge(self, quality: float) -> None:
        """Note how good the model is now."""
        self.points.append(Point(quality if isfinite(quality) else float("-inf"), dict(self._costs)))

    def watching(self, quality: Callable[[torch.nn.Module], float], kind: str = "step") -> Watching:
        """What the shared trainer takes as its `watcher`: steps are charged, epochs are judged."""
        return Watching(self, quality, kind)

    def _now_s(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return time.perf_counter()
        return time.process_time()


@dataclass
class Watching(Unwatched):
    """See `Meter.watching`."""

    meter: Meter
    quality: Callable[[torch.nn.Module], float]
    kind: str

    @contextmanager
    def step(self, epoch: int, position: int, samples: int) -> Iterator[None]:
        """Charge one step; batches of unlike size do unlike work."""
        with self.meter.step(f"{self.kind} of {samples}", samples=samples):
            yield

    def epoch(self, epoch: Epoch, model: torch.nn.Module) -> None:
        """Judge the model as it is after an epoch; it is handed over in eval mode."""
        self.meter.judge(self.quality(model))
