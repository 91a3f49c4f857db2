"""How good a program's answers are, with the interval that so many samples leave open. Found once for equal graphs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from passes.dataset import UNASKED, Array, Dataset
from passes.metric import TOP1, each_label, paired_interval
from passes.program import Program
from toolkit.cache import fingerprint
from toolkit.digests import canonical_digest
from toolkit.search.deployment.kept import Kept

__all__ = ["LEVELS", "TRAINED", "Judge", "Quality", "wilson"]

_Z_90 = 1.645
LEVELS = {1: 64, 2: 2048}
"""Samples at most that quality is measured on at a fidelity: few, to see whether more are worth their time, and all."""
TRAINED = 3
"""The fidelity at which a network that something was taken out of is trained first."""


@dataclass(frozen=True)
class Quality:
    """A mean score over samples, 0 to 1.

    Args:
        interval: 90 %, by Wilson.
        drop: Of the mean, from the float model's on the same samples.
        drop_interval: 90 %, paired.
    """

    mean: float
    interval: tuple[float, float]
    n: int
    m2: float
    drop: float
    drop_interval: tuple[float, float]


class Judge:
    """Measures quality: top-1 accuracy where there are labels, else agreement with the float model.

    Agreement of one sample is 1 where both find the same class; of answers that are no classes it is what noise leaves
    of the signal, max(0, 1 - noise power / signal power).

    Args:
        reference: The model as it came.
    """

    def __init__(self, reference: Program, kept: Kept) -> None:
        self.reference, self._kept = reference, kept

    def metric(self, data: Dataset) -> str:
        """What is measured, for people."""
        return TOP1.name if data.labels is not None else "agreement with the float model"

    def floor(self, data: Dataset) -> float:
        """Quality of the best constant class on `data`; what is no better has learnt nothing that is left.

        0 where the model that came is no better either, or answers no classes: nothing can be told by it there.
        """
        key = canonical_digest(["floor", fingerprint(), self.reference.digest, data.digest])
        constant: float = self._kept.found(key, lambda: _constant(self._classes(data)))
        return constant if float(np.mean(self._scores(self.reference, data))) > constant else 0.0

    def _classes(self, data: Dataset) -> Array:
        """Those that would be right."""
        if data.labels is not None:
            labels = np.concatenate([np.ravel(label) for label in each_label(data.labels)])
            asked: Array = labels[labels != UNASKED]
            return asked
        answers = [next(iter(answer.values())) for answer in self.reference.answers(data)]
        return np.array([answer.argmax(1)[0] for answer in answers if _are_classes(answer)])

    def quality(self, program: Program, data: Dataset) -> Quality:
        """Of `program` on `data`."""
        scores, before = self._scores(program, data), self._scores(self.reference, data)
        mean = float(np.mean(scores))
        m2 = float(np.square(np.asarray(scores) - mean).sum())
        drop = float(np.mean(before)) - mean
        return Quality(mean, wilson(mean, len(scores)), len(scores), m2, drop, paired_interval(before, scores))

    def _scores(self, program: Program, data: Dataset) -> list[float]:
        key = canonical_digest(["scores", fingerprint(), program.digest, self.reference.digest, data.digest])
        found: list[float] = self._kept.found(key, lambda: self._measured(program, data))
        return found

    def _measured(self, program: Program, data: Dataset) -> list[float]:
        if data.labels is not None:
            labels = each_label(data.labels)
            return [TOP1.score(answer, label) for answer, label in zip(_answers(program, data), labels, strict=True)]
        pairs = zip(self.reference.answers(data), _answers(program, data), strict=True)
        return [_agreement(next(iter(want.values())), next(iter(have.values()))) for want, have in pairs]


def _answers(program: Program, data: Dataset) -> Sequence[dict[str, Array]]:
    return [program.run(sample) for sample in data]


def _agreement(want: Array, have: Array) -> float:
    if _are_classes(want):
        return float(want.argmax(1)[0] == have.argmax(1)[0])
    signal = float(np.square(want.astype(np.float64)).sum())
    noise = float(np.square(want.astype(np.float64) - have).sum())
    left = 1 - noise / signal if signal > 0 else float(noise == 0)
    return max(0.0, left) if np.isfinite(left) else 0.0


def _are_classes(answer: Array) -> bool:
    return answer.ndim == 2 and answer.shape[1] > 1


def _constant(classes: Array) -> float:
    """Share of the most frequent one; 0 of none."""
    return float(np.unique(classes, return_counts=True)[1].max() / len(classes)) if len(classes) else 0.0


def wilson(mean: float, n: int, z: float = _Z_90) -> tuple[float, float]:
    """Interval of a share seen as `mean` in `n` samples; of scores between 0 and 1 it is no narrower than theirs.

    Source: Wilson 1927.
    """
    middle = (mean + z * z / (2 * n)) / (1 + z * z / n)
    half = z * sqrt(mean * (1 - mean) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, min(middle - half, mean)), min(1.0, max(middle + half, mean))
