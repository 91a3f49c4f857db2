"""What each arm did from each seed, kept in a folder: a run that was cut off goes on, the next one only computes."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import platform
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any

import torch

from toolkit.bench.training_cost.ablation import Ablation
from toolkit.bench.training_cost.metering import Meter, Point
from toolkit.bench.training_cost.methods import ablation

__all__ = ["RECORDED", "Results", "Run", "digest", "machine", "measure", "record"]

RECORDED = Path(__file__).parent / "recorded"
"""Runs that came with the toolkit, a file a method; the machine of each stands in it."""

_SCHEMA = "toolkit.bench.training_cost.run/1"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One arm from one seed, and where it ran: times of two machines are never compared."""

    ablation: str
    arm: str
    seed: int
    machine: str
    points: tuple[Point, ...]

    def to_json(self, digest: str) -> dict[str, Any]:
        """As one document; a lost quality is null."""
        rows = [[_short(p.quality), {name: _short(p.costs[name]) for name in sorted(p.costs)}] for p in self.points]
        return {"schema": _SCHEMA, "ablation": self.ablation, "arm": self.arm, "seed": self.seed, "digest": digest,
                "machine": self.machine, "points": rows}  # fmt: skip


@dataclass(frozen=True)
class Results:
    """Runs in `folder`, each in a file of its own, and those that came with the toolkit unless `fresh`."""

    folder: Path
    fresh: bool = False

    def load(self, what: Ablation, arm: str, seed: int) -> Run | None:
        """What was kept; None where there is nothing, it is damaged, or the method's code has changed since."""
        kept = _run(_read(self._file(what, arm, seed)), what)
        if kept is not None or self.fresh:
            return kept
        return _run(_shipped(RECORDED / f"{what.name}.json").get((arm, seed)), what)

    def shipped(self, what: Ablation) -> int:
        """Seeds from 0 on of which runs came with the toolkit."""
        known = {} if self.fresh else _shipped(RECORDED / f"{what.name}.json")
        return 1 + max((seed for (_, seed), document in known.items() if _run(document, what)), default=-1)

    def store(self, what: Ablation, run: Run) -> None:
        """Keep `run`, whole or not at all."""
        file = self._file(what, run.arm, run.seed)
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch = file.with_name(f".{file.name}.{os.getpid()}")
        scratch.write_text(json.dumps(run.to_json(digest(what))), "utf-8")
        os.replace(scratch, file)

    def _file(self, what: Ablation, arm: str, seed: int) -> Path:
        return self.folder / what.name / f"{arm.replace(' ', '_')}-{seed}.json"


def record(what: Ablation, runs: Iterable[Run], folder: Path | None = None) -> None:
    """Write the runs of one method as they are shipped, in place of those that were. Looks that showed nothing are left
    out, but for the last: no cost is found from them."""
    folder = folder or RECORDED
    folder.mkdir(parents=True, exist_ok=True)
    made = digest(what)
    lines = ",\n".join(
        json.dumps(replace(run, points=_telling(run.points)).to_json(made), separators=(",", ":"))
        for run in sorted(runs, key=lambda run: (run.arm, run.seed))
    )
    (folder / f"{what.name}.json").write_text(f'{{"runs": [\n{lines}\n]}}\n', "utf-8")


def _telling(points: tuple[Point, ...]) -> tuple[Point, ...]:
    return (*(point for point in points[:-1] if isfinite(point.quality)), points[-1])


@cache
def _shipped(file: Path) -> Mapping[tuple[str, int], Any]:
    """Documents by arm and seed."""
    found = _read(file)
    documents = found["runs"] if found is not None else ()
    return {(document["arm"], document["seed"]): document for document in documents}


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return None


def _run(document: Any, what: Ablation) -> Run | None:
    """A run from its document; None where that is damaged or of other code."""
    try:
        if document["schema"] != _SCHEMA or document["digest"] != digest(what):
            return None
        points = tuple(_point(quality, costs) for quality, costs in document["points"])
        return Run(ablation=what.name, arm=str(document["arm"]), seed=int(document["seed"]),
                   machine=str(document["machine"]), points=points)  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def digest(what: Ablation) -> str:
    """Of the code that made a result: the method's own file without its comments, and the version that it states."""
    module = sys.modules.get(next(iter(what.arms.values())).__module__)
    source = inspect.getsource(module) if module is not None else ""
    bare = re.sub(r"[ \t]+#.*$", "", source, flags=re.MULTILINE)
    return hashlib.sha256(f"{what.version}\n{bare}".encode()).hexdigest()


def measure(name: str, arm: str, seed: int, device: str) -> Run:
    """Run one arm of the method called `name` from `seed`, on one thread."""
    what, meter = ablation(name), Meter(device)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[meter.device] if meter.device.type == "cuda" else []):
            torch.manual_seed(seed)
            what.arms[arm](seed, meter)
    finally:
        torch.set_num_threads(threads)
    if not meter.points:
        raise ValueError(f"{name}: {arm} was never judged")
    return Run(ablation=name, arm=arm, seed=seed, machine=machine(device), points=tuple(meter.points))


def machine(device: str) -> str:
    """Processor or GPU, and torch's version."""
    if torch.device(device).type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, torch {torch.__version__}"
    return f"{_processor()}, torch {torch.__version__}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _short(value: float) -> float | None:
    return float(f"{value:.7g}") if isfinite(value) else None


def _point(quality: float | None, costs: Mapping[str, Any]) -> Point:
    known = {str(name): float(value) for name, value in costs.items()}
    return Point(float("-inf") if quality is None else float(quality), known)
