"""Two plain latency models that the real one is held against in `toolkit.bench.estimates`.

Both are fitted on the same rows, to relative errors. The additive one has ten positive coefficients with a ridge
towards a data sheet: MACs of six classes, activation bytes, weight bytes, operators, and a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from targets.fitting import Measured
from targets.latency import LatencyFit
from targets.operators import MAC_CLASSES

__all__ = ["BASELINES", "left_out_errors"]

Array = np.ndarray[Any, Any]

_ERROR, _PULL, _ODD = 0.05, 1.0, 3.0  # relative error of a row; the prior's width, in logarithms; soft above so many
_CLASS_OF_COST = {"conv3x3": "convolution", "conv": "convolution", "pointwise": "convolution", "depthwise": "depthwise",
                  "matmul": "matmul", "recurrent": "recurrent"}  # fmt: skip


def left_out_errors(
    rows: Sequence[Measured], prior: LatencyFit, group: Callable[[Measured], str], baseline: str
) -> tuple[Array, Array]:
    """Relative errors (n,) and predictions in seconds (n,) of rows whose group the baseline had not seen."""
    features = np.stack([_features(row, prior.lowering.batch) for row in rows])
    extra, measured = np.array([row.extra_s for row in rows]), np.array([row.latency_s for row in rows])
    groups, predicted = np.array([group(row) for row in rows]), np.empty(len(rows))
    start = _start(prior)
    for name in sorted(set(groups)):
        out = groups == name
        costs = BASELINES[baseline](features[~out], measured[~out], extra[~out], start)
        predicted[out] = features[out] @ costs + extra[out]
    return np.abs(predicted / measured - 1), predicted


def _features(row: Measured, batch: int) -> Array:
    ops = row.workload.operators
    by_class = [sum(op.repeats * op.macs for op in ops if op.op_class == name) for name in MAC_CLASSES]
    activations = sum(op.repeats * op.activation_bytes for op in ops)
    once = [sum(op.repeats * op.weight_bytes for op in ops), sum(op.repeats for op in ops), 1]
    return np.array([*by_class, activations, *(value / batch for value in once)])


def _start(prior: LatencyFit) -> Array:
    rates = [prior.costs[_CLASS_OF_COST[name]] for name in MAC_CLASSES]
    return np.array([*rates, *(prior.costs[cause] for cause in ("activations", "weights", "launch", "fixed"))])


def _macs_only(features: Array, measured: Array, extra: Array, start: Array) -> Array:
    macs = features[:, : len(MAC_CLASSES)].sum(axis=1)
    known = np.log(np.maximum(measured - extra, measured / 10) / macs)
    rate = np.exp(np.median(known)) if len(known) else start[0]
    return np.array([*[rate] * len(MAC_CLASSES), 0.0, 0.0, 0.0, 0.0])


def _additive(features: Array, measured: Array, extra: Array, start: Array) -> Array:
    origin = np.log(start)

    def residuals(theta: Array) -> Array:
        errors = (np.log(features @ np.exp(theta) + extra) - np.log(measured)) / _ERROR
        return np.concatenate([errors, (theta - origin) / _PULL])

    if not len(measured):
        return start
    costs: Array = np.exp(least_squares(residuals, origin, loss="soft_l1", f_scale=_ODD, max_nfev=2000).x)
    return costs


BASELINES: dict[str, Callable[[Array, Array, Array, Array], Array]] = {"macs": _macs_only, "additive": _additive}
