"""Compare the answers of two programs on the same samples, one sample at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf, log10

import numpy as np

from passes.dataset import Array, Dataset
from passes.metric import Metric, each_label, paired_interval
from passes.program import Program
from passes.proof import Drift, MetricChange

__all__ = ["compare", "compare_metric", "drifts", "errors", "metric_change", "sqnr_db"]


def sqnr_db(signal_power: float, noise_power: float) -> float:
    """10 log10(signal / noise): infinite where there is no noise, minus infinite where there is only noise."""
    if noise_power == 0:
        return inf
    if noise_power == inf:
        return -inf
    return 10 * log10(signal_power / noise_power) if signal_power > 0 else -inf


def compare(reference: Program, candidate: Program, data: Dataset) -> tuple[Drift, ...]:
    """Signal-to-noise ratio and largest error of each output over all samples of `data`."""
    return drifts(reference.answers(data), candidate.answers(data))


def drifts(truths: Iterable[Mapping[str, Array]], answers: Iterable[Mapping[str, Array]]) -> tuple[Drift, ...]:
    """The same of answers that are there, sample by sample.

    A value that is not finite in one and differs in the other makes the noise infinite.
    """
    power: dict[str, list[float]] = {}
    for truth, answer in zip(truths, answers, strict=True):
        for name, want in truth.items():
            signal, noise, worst = errors(want, answer[name])
            totals = power.setdefault(name, [0.0, 0.0, 0.0])
            totals[0] += signal
            totals[1] += noise
            totals[2] = max(totals[2], worst)
    return tuple(
        Drift(output=name, sqnr_db=sqnr_db(signal, noise), max_abs_error=worst)
        for name, (signal, noise, worst) in power.items()
    )


def errors(want: Array, have: Array) -> tuple[float, float, float]:
    """(signal power, noise power, largest error) of `have` against `want`.

    Equal infinities and NaN in both places are no error; a differing one, or another shape, is an infinite one.
    """
    if want.shape != have.shape:
        return 0.0, inf, inf
    want64, have64 = np.asarray(want, np.float64), np.asarray(have, np.float64)
    same = (want == have) | (np.isnan(want64) & np.isnan(have64))
    with np.errstate(invalid="ignore"):
        error = np.where(same, 0.0, np.nan_to_num(np.abs(want64 - have64), nan=inf, posinf=inf))
    if want.dtype.kind in "iub" and have.dtype.kind in "iub":
        error = np.where(same, error, np.maximum(error, 1.0))  # beyond 2^53 the difference may round to nothing
    finite = np.where(np.isfinite(want64), want64, 0.0)
    return float(np.square(finite).sum()), float(np.square(error).sum()), float(error.max(initial=0))


def compare_metric(reference: Program, candidate: Program, data: Dataset, metric: Metric) -> MetricChange | None:
    """The metric of both programs where `data` has labels."""
    if data.labels is None:
        return None
    return metric_change(reference.answers(data), candidate.answers(data), data.labels, metric)


def metric_change(
    truths: Iterable[Mapping[str, Array]], answers: Iterable[Mapping[str, Array]], labels: Array, metric: Metric
) -> MetricChange:
    """The same of answers that are there, sample by sample; `labels` are a dataset's."""
    known = each_label(labels)
    before = [metric.score(a, label) for a, label in zip(truths, known, strict=True)]
    after = [metric.score(a, label) for a, label in zip(answers, known, strict=True)]
    return MetricChange(
        name=metric.name,
        before=float(np.mean(before)),
        after=float(np.mean(after)),
        drop_interval=paired_interval(before, after),
        samples=len(known),
    )
