"""Fit a stack's costs to measured networks, and say by leaving networks out how good they are.

Costs are positive and fitted as logarithms, to relative errors, with a ridge towards the prior as tight as its
covariance: a cost that the rows do not determine stays where physics puts it, and the interval says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from targets.latency import ARITHMETIC, CAUSES, COVERAGE, LatencyFit, work_of
from targets.workload import Workload

__all__ = ["HeldOut", "Measured", "fit_costs", "fit_stack", "held_out", "predict"]

Array = np.ndarray[Any, Any]

_ERROR = 0.05  # relative error of a published latency, beside which the ridge is weighed
_ODD = 3.0  # errors above so many of these pull less: a published table holds an odd row now and then
_SHARE_THAT_MATTERS = 0.01  # of a network's arithmetic, from which on a kind of it counts as measured


@dataclass(frozen=True)
class Measured:
    """One measured network, which is the same at every size of its input.

    `extra_s` is time outside the model: streaming, operators on the host.
    """

    network: str
    family: str
    workload: Workload
    latency_s: float
    extra_s: float = 0.0


@dataclass(frozen=True)
class HeldOut:
    """Networks that the fit had not seen: measured / predicted, and the logarithm's deviation that was expected.

    `groups` names what was left out together with each; where it is empty, each was left out alone.
    """

    factors: tuple[float, ...]
    deviations: tuple[float, ...]
    groups: tuple[str, ...] = ()

    @property
    def errors(self) -> Array:
        """Error of each prediction, relative to what was measured."""
        return np.abs(1 / np.array(self.factors) - 1)

    @property
    def mape(self) -> float:
        return float(np.mean(self.errors))

    @property
    def scores(self) -> Array:
        """Absolute error of each logarithm, in expected deviations."""
        found: Array = np.abs(np.log(self.factors)) / np.array(self.deviations)
        return found

    @property
    def quantile(self) -> float:
        """Deviations that hold COVERAGE of the networks, by the (n + 1) rule."""
        return float(np.quantile(self.scores, COVERAGE, method="weibull"))

    @cached_property
    def coverage(self) -> float | None:
        """Share of rows inside an interval whose width was taken from the other groups; None where there is one."""
        scores, groups = self.scores, np.array(self.groups or range(len(self.factors)))
        if len(set(groups)) < 2:
            return None
        inside = [
            score <= np.quantile(scores[groups != group], COVERAGE, method="weibull")
            for score, group in zip(scores, groups, strict=True)
        ]
        return float(np.mean(inside))


def fit_stack(rows: Sequence[Measured], prior: LatencyFit, provenance: str) -> LatencyFit:
    """Costs for a stack, with the interval of networks left out one at a time."""
    left_out = held_out(rows, prior, lambda row: row.network)
    networks = {row.network for row in rows}
    macs = [row.workload.macs for row in rows]
    return replace(
        fit_costs(rows, prior),
        quantile=left_out.quantile,
        rows=len(rows),
        networks=len(networks),
        seen_causes=_seen(rows, _Table.of(rows, prior)),
        seen_macs=(min(macs), max(macs)),
        provenance=f"fitted on {len(rows)} rows of {len(networks)} networks ({provenance}); "
        f"mean error on networks left out {left_out.mape:.1%}",
    )


def fit_costs(rows: Sequence[Measured], prior: LatencyFit) -> LatencyFit:
    """The costs alone, without saying how good they are."""
    return _fit(_Table.of(rows, prior), prior)


def held_out(rows: Sequence[Measured], prior: LatencyFit, group: Callable[[Measured], str]) -> HeldOut:
    """Fit without each group in turn and predict it."""
    table, groups = _Table.of(rows, prior), np.array([group(row) for row in rows])
    factors, deviations = np.ones(len(rows)), np.ones(len(rows))
    for left_out in sorted(set(groups)):
        out = groups == left_out
        fit = _fit(table.take(~out), prior) if not out.all() else prior
        terms = table.work[out] * _vector(fit)
        predicted = terms.sum(axis=1) + table.extra[out]
        factors[out] = table.latency[out] / predicted
        deviations[out] = [fit.deviation(dict(zip(CAUSES, share, strict=True))) for share in terms / predicted[:, None]]
    return HeldOut(tuple(factors), tuple(deviations), tuple(groups.tolist()))


def predict(row: Measured, fit: LatencyFit) -> float:
    """Seconds that the model gives."""
    return float(_work(row.workload, fit) @ _vector(fit)) + row.extra_s


@dataclass(frozen=True)
class _Table:
    """Rows as arrays: work by cause (n, causes), seconds measured (n,), seconds outside the model (n,)."""

    work: Array
    latency: Array
    extra: Array

    @classmethod
    def of(cls, rows: Sequence[Measured], prior: LatencyFit) -> _Table:
        work = np.stack([_work(row.workload, prior) for row in rows])
        return cls(work, np.array([row.latency_s for row in rows]), np.array([row.extra_s for row in rows]))

    def take(self, which: Array) -> _Table:
        return _Table(self.work[which], self.latency[which], self.extra[which])


def _work(workload: Workload, fit: LatencyFit) -> Array:
    total = dict.fromkeys(CAUSES, 0.0)
    total["fixed"] = 1 / fit.lowering.batch
    for op in workload.operators:
        for cause, amount in work_of(op, fit.lowering).items():
            total[cause] += op.repeats * amount
    return np.array(list(total.values()))


def _vector(fit: LatencyFit) -> Array:
    return np.array([fit.costs[cause] for cause in CAUSES])


def _fit(table: _Table, prior: LatencyFit) -> LatencyFit:
    start, measured = np.log(_vector(prior)), np.log(table.latency)
    precision = np.linalg.inv(np.array(prior.covariance))
    ridge = np.linalg.cholesky(precision).T

    def residuals(theta: Array) -> Array:
        errors = (np.log(table.work @ np.exp(theta) + table.extra) - measured) / _ERROR
        return np.concatenate([errors, ridge @ (theta - start)])

    def jacobian(theta: Array) -> Array:
        return np.vstack([_shares(table, theta) / _ERROR, ridge])

    solution = least_squares(residuals, start, jac=jacobian, loss="soft_l1", f_scale=_ODD, max_nfev=2000)
    theta = solution.x
    errors = np.log(table.work @ np.exp(theta) + table.extra) - measured
    scatter = max(_ERROR, float(np.median(np.abs(errors))) / 0.6745)  # robust: the median of a normal's deviations
    shares = _shares(table, theta)
    covariance = np.linalg.inv(shares.T @ shares / scatter**2 + precision)
    return replace(
        prior,
        costs=dict(zip(CAUSES, np.exp(theta).tolist(), strict=True)),
        covariance=covariance.tolist(),
        scatter=scatter,
    )


def _shares(table: _Table, theta: Array) -> Array:
    """Part of each cause in each row's latency: the derivative of its logarithm."""
    terms = table.work * np.exp(theta)
    shares: Array = terms / (terms.sum(axis=1) + table.extra)[:, None]
    return shares


def _seen(rows: Sequence[Measured], table: _Table) -> frozenset[str]:
    """Kinds of arithmetic that matter in at least two of the networks."""
    found = set()
    columns = {cause: column for column, cause in enumerate(CAUSES) if cause in ARITHMETIC}
    total = np.maximum(table.work[:, list(columns.values())].sum(axis=1), 1.0)
    for cause, column in columns.items():
        where = np.flatnonzero(table.work[:, column] >= _SHARE_THAT_MATTERS * total)
        if len({rows[int(i)].network for i in where}) > 1:
            found.add(cause)
    return frozenset(found)
