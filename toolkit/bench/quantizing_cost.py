"""Seconds and resident memory that quantizing EfficientNet-Lite0 takes, each step in a process of its own.

    python -m toolkit.bench.quantizing_cost [--json]

256 crops of photographs are read one at a time from a file, as a user's images are. The recipe `int8` is run from the
float graph with all its proofs; the sensitivity is the measurement that `toolkit explain` takes, of every layer.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from passes.context import Context
from passes.dataset import Array, Dataset
from passes.onnx_level.effects import measure
from passes.onnx_level.switchboard import Switchboard
from passes.program import Level, Program
from passes.recipe import float32, int8
from passes.running import run
from targets.errors import MissingDependency
from targets.stack import Stack
from targets.target import load_stack
from toolkit import units
from toolkit.bench.trained import CALIBRATED_ON, TASKS, photographs
from toolkit.explaining import SAMPLES

__all__ = ["GOALS", "Cost", "Goal", "costs"]

IMAGES = 256
_MODULE = "toolkit.bench.quantizing_cost"
_STACK = "desktop_cpu/onnxruntime-int8"


@dataclass(frozen=True)
class Goal:
    """What a step may take, of the process that does nothing else."""

    seconds: float
    resident_bytes: int


GOALS = {
    "int8, 256 images": Goal(60.0, 1_500_000_000),
    "sensitivity of every layer": Goal(60.0, 1_500_000_000),
}


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a step took. `loading_s` and `loading_bytes`: imports, weights and the float graph, before it began."""

    step: str
    seconds: float
    resident_bytes: int
    loading_s: float
    loading_bytes: int
    layers: int

    @property
    def holds(self) -> bool:
        goal = GOALS[self.step]
        return self.seconds <= goal.seconds and self.resident_bytes <= goal.resident_bytes


def costs() -> Iterator[Cost]:
    """One for each goal.

    Raises:
        MissingDependency: the network's package or the photographs are not installed.
    """
    task = TASKS["efficientnet-lite0"]()
    if task is None:
        raise MissingDependency("EfficientNet-Lite0 or scikit-image is not installed",
                                hint="README, block real-networks, installs them")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder, "images.npy")
        np.save(images, photographs(CALIBRATED_ON, IMAGES // len(CALIBRATED_ON), "cost"))
        for step in GOALS:
            command = [sys.executable, "-m", _MODULE, "--step", step, "--images", str(images)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise MissingDependency(f"{step} failed: {done.stderr.strip()[-300:]}",
                                        hint=f"python -m {_MODULE} --step shows all of it")  # fmt: skip
            yield Cost(**json.loads(done.stdout))


# ---- in the process of a step


def _cost(step: str, images: Path) -> Cost:
    start = time.perf_counter()
    task = TASKS["efficientnet-lite0"]()
    assert task is not None
    stack = load_stack(_STACK)
    data = _streamed(images, task.program.signature.inputs[0].name)
    ready = run(float32(stack, task.program.level), task.program, Context(stack=stack)).program
    work = _quantizes if step == next(iter(GOALS)) else _explains
    return work(step, ready, data, stack, start)


def _quantizes(step: str, ready: Program, data: Dataset, stack: Stack, start: float) -> Cost:
    return _timed(step, lambda: len(list(_quantized(ready, data, stack).graph)), start)


def _explains(step: str, ready: Program, data: Dataset, stack: Stack, start: float) -> Cost:
    quantized = _quantized(ready, data.take(32), stack)

    def layers() -> int:
        board = Switchboard(ready, quantized)
        return len(measure(board, data.take(SAMPLES)).effects)

    return _timed(step, layers, start)


def _quantized(ready: Program, data: Dataset, stack: Stack) -> Program:
    program = run(int8(stack, Level.ONNX), ready, Context(stack=stack, data=data)).program
    if "int8" not in program.facts:
        raise SystemExit("the recipe left the network in float")
    return program


def _timed(step: str, work: Callable[[], int], start: float) -> Cost:
    loaded, began = _resident_bytes(), time.perf_counter()
    layers = work()
    return Cost(
        step=step,
        seconds=time.perf_counter() - began,
        resident_bytes=_resident_bytes(),
        loading_s=began - start,
        loading_bytes=loaded,
        layers=layers,
    )


def _resident_bytes() -> int:
    """The most that this process has had resident so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _streamed(images: Path, name: str) -> Dataset:
    """One image at a time off the disk; the file is not kept in memory between them."""
    count = len(np.load(images, mmap_mode="r"))

    def read() -> Iterator[dict[str, Array]]:
        for i in range(count):
            yield {name: np.array(np.load(images, mmap_mode="r")[i : i + 1])}

    return Dataset("photographs", read, count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--step", choices=GOALS, help="this one alone, in this process; needs --images")
    parser.add_argument("--images", type=Path, metavar="FILE", help=".npy of (n, 3, 224, 224)")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    if given.step:
        print(json.dumps(_cost(given.step, given.images).__dict__))
        return
    found = list(costs())
    if given.json:
        print(json.dumps({"schema": "toolkit.bench.quantizing_cost/1", "rows": [cost.__dict__ for cost in found]}))
        return
    print(f"{'step':28} {'layers':>6} {'took':>8} {'goal':>8} {'resident':>9} {'goal':>9} {'loaded':>9}")
    for cost in found:
        goal = GOALS[cost.step]
        print(f"{cost.step:28} {cost.layers:>6} {units.seconds(cost.seconds):>8} {units.seconds(goal.seconds):>8} "
              f"{units.bytes_(cost.resident_bytes):>9} {units.bytes_(goal.resident_bytes):>9} "
              f"{units.bytes_(cost.loading_bytes):>9}")  # fmt: skip


if __name__ == "__main__":
    main()
