"""What the Edge TPU's own compiler expects of published networks: cycles and bytes of instructions.

The constants of `targets/rules/edgetpu.toml` are what `cycles` fits; host overhead is no part of them.
"""

from __future__ import annotations

import csv
from dataclasses import replace
from importlib.resources import files
from typing import Any

import numpy as np
from scipy.optimize import nnls

from targets.fitting import Measured, fit_costs, held_out, predict
from targets.latency import LatencyFit
from targets.target import prior_of, shipped_target
from toolkit.bench.published import workload_of

__all__ = ["cycles"]

_NETWORKS = {
    "mobilenet_v1_0.25_128_quant": "mobilenet_v1_0.25",
    "mobilenet_v1_0.5_160_quant": "mobilenet_v1_0.5",
    "mobilenet_v1_0.75_192_quant": "mobilenet_v1_0.75",
    "mobilenet_v1_1.0_224_quant_embedding_extractor": "mobilenet_v1_1.0",
    "mobilenet_v2_1.0_224_quant": "mobilenet_v2_1.0",
    "mobilenet_edgetpu_0.75_224_post_training_quant": "mobilenet_edgetpu_0.75",
    "deeplabv3_mnv2_pascal_quant": "deeplab_mobilenet_v2",
}
# Where the fit starts, in cycles: an array of 64 x 64 at a third of its peak, 64 or 256 bytes and elements a cycle.
_START = {"fixed": 1000, "launch": 300, "convolution": 1 / 1200, "matmul": 1 / 1200, "depthwise": 1 / 100,
          "windows": 1 / 64, "sums": 1 / 64, "patches": 1e-4, "activations": 1 / 256, "weights": 1 / 256,
          "packing": 1 / 256}  # fmt: skip


def cycles() -> dict[str, Any]:
    """Cycles for a unit of each cause, bytes of instructions, and how far networks left out are missed."""
    prior = _start()
    rows, instructions = _rows()
    fit = fit_costs(rows, prior)
    left_out = held_out(rows, prior, lambda row: row.network)
    return {
        "networks": len(rows),
        "mape_left_out": left_out.mape,
        "mape_fitted": float(np.mean([abs(predict(row, fit) / row.latency_s - 1) for row in rows])),
        "cycles": {cause: fit.costs[cause] for cause in _START},
        "instruction_bytes": _instruction_bytes(rows, instructions),
    }


def _start() -> LatencyFit:
    prior = prior_of(shipped_target("coral_tpu"), "usb3-desktop")
    return replace(prior, costs={**prior.costs, **_START})


def _rows() -> tuple[list[Measured], list[float]]:
    """The compiler's networks that are defined here, with cycles in the place of seconds, and their instructions."""
    text = files("toolkit.bench").joinpath("rows", "edgetpu", "cycles.csv").read_text("utf-8")
    rows, instructions = [], []
    for row in csv.DictReader(text.splitlines()):
        name = _NETWORKS.get(row["model"])
        work = workload_of(name, row["input_shape"], frozenset({"batch_norm", "relu"})) if name else None
        if name and work is not None:
            rows.append(Measured(name, name, work.at_precision("int8"), float(row["estimated_cycles"])))
            instructions.append(float(row["instruction_bytes"]))
    return rows, instructions


def _instruction_bytes(rows: list[Measured], instructions: list[float]) -> dict[str, float]:
    """Bytes for an operator and for a byte of activations, fitted to relative errors."""
    facts = np.array([
        (len(row.workload.operators), sum(op.activation_bytes for op in row.workload.operators)) for row in rows
    ])  # fmt: skip
    (launch, activations), _ = nnls(facts / np.array(instructions)[:, None], np.ones(len(rows)))
    return {"launch": float(launch), "activations": float(activations)}
