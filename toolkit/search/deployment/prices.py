"""What a program costs on a stack: the five measures of a deployment, each with its interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

import numpy as np

from passes.onnx_level.sites import dequantized
from passes.program import Program
from targets.cost import estimate
from targets.grouping import ANCHORS
from targets.stack import Stack
from toolkit.search.measures import Measure

__all__ = ["LIMITED", "MEASURES", "Priced", "broken", "priced", "sparsity"]

MEASURES: tuple[Measure, ...] = (
    Measure(name="latency_s", unit="s", low=1e-6, high=100.0, transform="log", larger_is="worse"),
    Measure(name="energy_j", unit="J", low=1e-7, high=1000.0, transform="log", larger_is="worse"),
    Measure(name="peak_memory_bytes", unit="B", low=1e3, high=1e12, transform="log", larger_is="worse"),
    Measure(name="model_bytes", unit="B", low=100.0, high=1e12, transform="log", larger_is="worse"),
    Measure(name="sparsity", unit="1", low=0.0, high=1.0, larger_is="neutral"),
)
"""In order of priority: an archive takes out of each what follows from those before it."""

LIMITED: Mapping[str, str] = {
    "latency_s": "latency_s", "memory_bytes": "peak_memory_bytes", "energy_j": "energy_j", "size_bytes": "model_bytes",
}  # fmt: skip
"""The measure that each field of `targets.verdict.Limits` bounds."""


@dataclass(frozen=True)
class Priced:
    """Measures by name, the interval of each, and where they come from."""

    measures: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    provenance: str
    extrapolated: bool


def priced(program: Program, stack: Stack, *, quick: bool = False) -> Priced:
    """What one inference of `program` costs on `stack`, in the precision that its graph has.

    Args:
        quick: Activations bounded by what is alive at once instead of planned; see `targets.cost.estimate`.
    """
    found = estimate(program.static_model, stack, as_is=True, quick=quick)
    size, spread = _size(program, stack, found.weight_bytes)
    zeros = sparsity(program)
    return Priced(
        {
            "latency_s": found.latency_s,
            "energy_j": found.energy_j,
            "peak_memory_bytes": float(found.peak_memory_bytes),
            "model_bytes": size,
            "sparsity": zeros,
        },
        {
            "latency_s": found.latency_interval_s,
            "energy_j": found.energy_interval_j,
            "peak_memory_bytes": (float(found.memory_interval_bytes[0]), float(found.memory_interval_bytes[1])),
            "model_bytes": spread,
            "sparsity": (zeros, zeros),
        },
        f"latency: {found.provenance}; memory: {found.memory_provenance}; energy: {found.energy_provenance}",
        found.extrapolated,
    )


def _size(program: Program, stack: Stack, weight_bytes: int) -> tuple[float, tuple[float, float]]:
    """Bytes of the file: exact where the artefact is this graph; else its weights beside a graph written otherwise."""
    now = float(len(program.onnx_bytes))
    if stack.artifact == "onnx":
        return now, (now, now)
    graph = max(0.0, now - weight_bytes)
    return weight_bytes + graph / 2, (float(weight_bytes), weight_bytes + graph)


def sparsity(program: Program) -> float:
    """Zeros among the weights of convolutions and matrix products, as the graph computes with them; 0 to 1."""
    zeros, total = 0, 0
    for node in program.graph:
        if node.op_type not in ANCHORS or len(node.inputs) < 2 or node.inputs[1] is None:
            continue
        value = node.inputs[1]
        maker = value.producer()
        if value.const_value is not None:
            weights = value.const_value.numpy()
        elif maker is not None and maker.op_type == "DequantizeLinear":
            found = dequantized(maker)
            if found is None:
                continue
            weights = found
        else:
            continue
        zeros += int(np.count_nonzero(weights == 0))
        total += weights.size
    return zeros / total if total else 0.0


def broken(limits: Mapping[str, float], measures: Mapping[str, float]) -> float:
    """By how much `measures` exceed `limits`, as shares of these, summed; 0 where they keep all."""
    return sum(max(0.0, measures[name] / (limit or inf) - 1) for name, limit in sorted(limits.items()))
