"""What onnxruntime takes for a network, each run in a process of its own, and what is predicted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from targets.graph import read_workload
from targets.memory import peak_memory
from targets.memory_plan import plan_memory
from targets.onnxruntime_memory import arena_use
from targets.target import load_target
from toolkit.bench.memory.networks import quantized, saved

__all__ = ["Measured", "arena_bytes", "measured", "process_bytes"]

_ALONE = Path(__file__).with_name("alone.py")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Bytes that onnxruntime took for a network and that were predicted, and the interval of the process."""

    network: str
    precision: str
    first_run_bytes: int
    first_run_predicted_bytes: int
    later_runs_bytes: int
    later_runs_predicted_bytes: int
    process_bytes: int
    process_predicted_bytes: int
    process_interval_bytes: tuple[int, int]
    lower_bound_bytes: int
    planned_bytes: int

    @property
    def covered(self) -> bool:
        low, high = self.process_interval_bytes
        return low <= self.process_bytes <= high


def measured(network: str, shape: str, *, precision: str = "fp32") -> Measured:
    """Measure a network of `toolkit.bench.networks` in onnxruntime, and predict the same.

    Args:
        precision: "fp32", or "int8" for the network as onnxruntime quantizes it.
    """
    import onnx_ir as ir

    from passes.structure import infer_shapes

    stack = load_target("desktop_cpu").stack(f"onnxruntime-{precision}")
    with tempfile.TemporaryDirectory() as folder:
        path = saved(network, shape, Path(folder))
        if precision == "int8":
            path = quantized(path)
        work = read_workload(infer_shapes(ir.load(path)), fuses=stack.fuses)
        first, later, process = arena_bytes(path, pattern=False), arena_bytes(path, pattern=True), process_bytes(path)
    use, peak, plan = arena_use(work), peak_memory(work, stack), plan_memory(work, outside=work.inputs)
    return Measured(
        network=network,
        precision=precision,
        first_run_bytes=first,
        first_run_predicted_bytes=use.first_run_bytes,
        later_runs_bytes=later,
        later_runs_predicted_bytes=use.later_runs_bytes,
        process_bytes=process,
        process_predicted_bytes=peak.peak_bytes,
        process_interval_bytes=peak.interval_bytes,
        lower_bound_bytes=plan.lower_bound_bytes,
        planned_bytes=plan.arena_bytes,
    )


def arena_bytes(path: Path, *, pattern: bool) -> int:
    """The peak of onnxruntime's arena above the weights, over two runs with or without its memory pattern."""
    return _ran(path, "pattern" if pattern else "", "exact")["arena_bytes"]


def process_bytes(path: Path) -> int:
    """The most resident memory of a process that loads a file into onnxruntime and runs it twice."""
    return _ran(path, "pattern", "")["process_bytes"]


def _ran(path: Path, *how: str) -> dict[str, int]:
    environment = {**os.environ, "ORT_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-P", str(_ALONE), str(path), *how]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    found: dict[str, int] = json.loads(done.stdout)
    return found
