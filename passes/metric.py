"""Judge answers against labels, sample by sample, so that two models can be compared in pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np

from passes.dataset import UNASKED, Array

__all__ = ["TOP1", "Metric", "each_label", "paired_interval"]

_Z_90 = 1.645


@dataclass(frozen=True)
class Metric:
    """A score for each answer, higher is better; the metric is its mean.

    Args:
        name: As printed.
        score: From the outputs for one sample and its label, or its labels where it has many, to a number, usually
            in [0, 1].
    """

    name: str
    score: Callable[[Mapping[str, Array], Any], float]


def _top1(answer: Mapping[str, Array], label: Any) -> float:
    wanted = np.asarray(label)
    rows = next(iter(answer.values())).reshape(wanted.size, -1)
    is_right = (rows.argmax(axis=1) == wanted.reshape(-1)) & ~np.isnan(rows).any(axis=1)  # argmax is where NaN is
    return float(is_right[wanted.reshape(-1) != UNASKED].mean())


TOP1 = Metric("top-1 accuracy", _top1)
"""Share of samples whose largest value of the first output is at the label; of the positions asked, where they have
labels. What is not a number is not right."""


def each_label(labels: Array) -> list[Any]:
    """What a score is given of each sample: its class, or the (...) classes of its positions."""
    classes = np.asarray(labels).astype(np.int64)
    return classes.tolist() if classes.ndim == 1 else list(classes)


def paired_interval(before: list[float], after: list[float]) -> tuple[float, float]:
    """90 % interval of mean(before - after) over paired samples whose scores lie in [0, 1].

    Two-sided: 5 % lie beyond either end, so that the drop is below the upper end with 95 % confidence.

    One pseudo-sample is added to either side, so that a few samples which all agree do not look like certainty.

    Source: Agresti and Min 2005, Statistics in Medicine 24, 729-740.
    """
    drops = np.asarray(before) - np.asarray(after)
    count = len(drops) + 2
    total, squares = float(drops.sum()), float(np.square(drops).sum()) + 1
    middle, half = total / count, _Z_90 * sqrt(squares - total**2 / count) / count
    return middle - half, middle + half
