"""The cells of NAS-Bench-201 on a Raspberry Pi 4: small layers that stay in the cache, in a runtime nobody stated.

The model's form and its priors are those of the board's other stacks; its costs are fitted on 100 of the 1,500 cells,
drawn with a fixed seed, and judged on the rest. Beside it: the costs of TFLite float32 as they are, times one factor.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from targets.fitting import Measured, fit_costs, predict
from targets.graph import read_workload
from targets.latency import LatencyFit
from targets.target import prior_of, shipped_target
from toolkit.bench.networks.nasbench201_graph import cell_graph
from toolkit.rng import generator

__all__ = ["cells"]

_FITTED, _SEED = 100, 0
_TARGET, _STACK = "raspberry_pi_4", "tflite-fp32"


def cells() -> dict[str, Any]:
    """Errors on the cells that were not fitted: Spearman correlation, and shares of the measured latency."""
    target = shipped_target(_TARGET)
    stack = target.stack(_STACK)
    rows = _rows(stack.fuses)
    order = generator(_SEED, "cells").permutation(len(rows))
    seen, unseen = [rows[i] for i in order[:_FITTED]], [rows[i] for i in order[_FITTED:]]
    own = fit_costs(seen, prior_of(target, _STACK))
    factor = float(np.exp(np.median([np.log(row.latency_s / predict(row, stack.latency)) for row in seen])))
    return {
        "cells": len(rows),
        "fitted_on": len(seen),
        "goal": {"spearman": 0.97, "within_10": 0.68},
        "own_costs": _errors(unseen, own, 1.0),
        "tflite_costs_times_one_factor": {"factor": factor, **_errors(unseen, stack.latency, factor)},
    }


def _rows(fuses: frozenset[str]) -> list[Measured]:
    text = files("toolkit.bench").joinpath("rows", "nasbench201", "measured.csv").read_text("utf-8")
    return [
        Measured(row["arch"], "cell", read_workload(cell_graph(row["arch"]), fuses=fuses),
                 float(row["raspberry_pi_4_ms"]) / 1e3)
        for row in csv.DictReader(text.splitlines())
    ]  # fmt: skip


def _errors(rows: Sequence[Measured], fit: LatencyFit, factor: float) -> dict[str, float]:
    predicted = factor * np.array([predict(row, fit) for row in rows])
    measured = np.array([row.latency_s for row in rows])
    errors = np.abs(predicted / measured - 1)
    return {
        "spearman": float(spearmanr(predicted, measured).statistic),
        "mape": float(errors.mean()),
        "within_10": float(np.mean(errors <= 0.1)),
        "within_20": float(np.mean(errors <= 0.2)),
    }
