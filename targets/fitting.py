"""Fit the additive latency model to measured networks, and say by leaving networks out how good it is.

Coefficients are positive and fitted as logarithms, to relative errors, with a ridge towards the data-sheet prior: a
coefficient that the rows do not determine stays where physics puts it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from targets.operators import MAC_CLASSES
from targets.stack import LatencyFit
from targets.workload import Workload

__all__ = ["Measured", "Quality", "fit_stack", "held_out", "predict"]

_ERROR = 0.05  # relative error of a published latency beside which the prior's pull is weighed
_PULL = 1.0  # standard deviation of the prior, in natural logarithms: a factor of e either way
_QUANTILES = (0.1, 0.9)
_CLASS_SHARE = 0.01  # of a network's arithmetic, from which on a class counts as measured


@dataclass(frozen=True)
class Measured:
    """One measured network. `extra_s` is time outside the additive form: streaming, operators on the host."""

    network: str
    family: str
    workload: Workload
    latency_s: float
    extra_s: float = 0.0


@dataclass(frozen=True)
class Quality:
    """Errors on networks that the fit had not seen. `factors` are measured / predicted."""

    factors: tuple[float, ...]

    @property
    def mape(self) -> float:
        """Mean absolute error, relative to the measured latency."""
        return float(np.mean([abs(1 / f - 1) for f in self.factors]))

    @property
    def interval(self) -> tuple[float, float]:
        """Factors that hold 80 % of the networks, by the (n + 1) rule."""
        low, high = np.quantile(self.factors, _QUANTILES, method="weibull")
        return float(min(low, 1.0)), float(max(high, 1.0))


def fit_stack(rows: Sequence[Measured], prior: LatencyFit, provenance: str) -> LatencyFit:
    """Coefficients for a stack, with the interval of networks left out one at a time."""
    quality = held_out(rows, prior, lambda row: row.network)
    fitted = _fit(rows, prior)
    networks = {row.network for row in rows}
    macs = [row.workload.macs for row in rows]
    return replace(
        fitted,
        interval=quality.interval,
        rows=len(rows),
        networks=len(networks),
        seen_classes=_seen(rows),
        seen_macs=(min(macs), max(macs)),
        provenance=f"additive model fitted on {len(rows)} rows of {len(networks)} networks ({provenance}); "
        f"mean error on networks left out {quality.mape:.1%}",
    )


def held_out(rows: Sequence[Measured], prior: LatencyFit, group: Callable[[Measured], str]) -> Quality:
    """Fit without each group in turn and predict it."""
    factors: dict[int, float] = {}
    for left_out in sorted({group(row) for row in rows}):
        rest = [row for row in rows if group(row) != left_out]
        fitted = _fit(rest, prior) if rest else prior
        for i, row in enumerate(rows):
            if group(row) == left_out:
                factors[i] = row.latency_s / predict(row, fitted)
    return Quality(tuple(factors[i] for i in range(len(rows))))


def predict(row: Measured, fit: LatencyFit) -> float:
    """Seconds by the additive form."""
    return float(_features(row) @ _costs(fit)) + row.extra_s


def _features(row: Measured) -> np.ndarray[Any, Any]:
    ops = row.workload.operators
    by_class = [sum(op.macs for op in ops if op.op_class == name) for name in MAC_CLASSES]
    return np.array(
        [1.0, len(ops), *by_class, sum(op.activation_bytes for op in ops), sum(op.weight_bytes for op in ops)]
    )


def _costs(fit: LatencyFit) -> np.ndarray[Any, Any]:
    """Seconds for one unit of each feature."""
    rates = [1 / fit.mac_s[name] for name in MAC_CLASSES]
    return np.array([fit.fixed_s, fit.operator_s, *rates, 1 / fit.activation_bytes_s, 1 / fit.weight_bytes_s])


def _fit(rows: Sequence[Measured], prior: LatencyFit) -> LatencyFit:
    features = np.stack([_features(row) for row in rows])
    extra = np.array([row.extra_s for row in rows])
    measured = np.log([row.latency_s for row in rows])
    start = np.log(_costs(prior))

    def residuals(theta: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        errors = (np.log(features @ np.exp(theta) + extra) - measured) / _ERROR
        return np.concatenate([errors, (theta - start) / _PULL])

    # robust: a published table holds an odd row now and then
    solution = least_squares(residuals, start, loss="soft_l1", f_scale=3.0, max_nfev=2000)
    fixed_s, operator_s, *rates, activation, weight = np.exp(solution.x)
    return replace(
        prior,
        fixed_s=float(fixed_s),
        operator_s=float(operator_s),
        mac_s={name: float(1 / cost) for name, cost in zip(MAC_CLASSES, rates, strict=True)},
        activation_bytes_s=float(1 / activation),
        weight_bytes_s=float(1 / weight),
    )


def _seen(rows: Sequence[Measured]) -> frozenset[str]:
    """Classes that matter in at least two of the networks."""
    networks: dict[str, set[str]] = {}
    for row in rows:
        shares: Mapping[str, int] = {
            name: sum(op.macs for op in row.workload.operators if op.op_class == name) for name in MAC_CLASSES
        }
        for name, share in shares.items():
            if share >= _CLASS_SHARE * max(row.workload.macs, 1):
                networks.setdefault(name, set()).add(row.network)
    return frozenset(name for name, found in networks.items() if len(found) > 1)
