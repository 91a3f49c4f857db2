"""What two bundles answer to the same samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from passes.compare import drifts, metric_change
from passes.dataset import Array, Dataset, Sample
from passes.metric import TOP1
from passes.proof import Drift, MetricChange
from passes.signature import Signature, TensorSpec
from targets.errors import InvalidInput, MissingDependency
from toolkit.bundle.bundle import Bundle
from toolkit.bundle.golden import Golden
from toolkit.config import load_config
from toolkit.data import check_preprocess_used, load_data

__all__ = ["Answers", "answers_on", "compared", "differ", "golden_answers"]

Progress = Callable[[str, float], None]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The second bundle's against the first's.

    Args:
        data: Of what the samples are.
        samples: How many were asked.
        drift: Of each output; the first's answers are the signal.
        same_class: Samples in which the largest value of the first output is at the same place; None where that is no
            row of classes.
        metric: Of both, where the data has labels.
    """

    data: str
    samples: int
    drift: tuple[Drift, ...]
    same_class: int | None
    metric: MetricChange | None

    def to_json(self) -> dict[str, Any]:
        return {
            "data": self.data,
            "samples": self.samples,
            "drift": [drift.to_json() for drift in self.drift],
            "same_class": self.same_class,
            "metric": self.metric.to_json() if self.metric else None,
        }


def golden_answers(first: Bundle, second: Bundle, progress: Progress) -> tuple[Answers | None, str]:
    """On the golden samples of the first; the second's own answers are taken where it recorded the same sample.

    Returns None and why, where the two do not take and give the same tensors, or the second cannot be run here.
    """
    if apart := differ(first.signature, second.signature):
        return None, apart
    samples, recorded = first.golden, second.golden
    given = []
    for done, golden in enumerate(samples, start=1):
        try:
            given.append(_recorded(golden.inputs, recorded) or second(golden.inputs))
        except (MissingDependency, InvalidInput) as error:
            return None, f"{second.path} was made with other samples, and does not answer here: {error.problem}"
        progress("answering", done / len(samples))
    outputs = [golden.outputs for golden in samples]
    return compared(f"golden samples of {first.path}", outputs, given, None), ""


def differ(first: Signature, second: Signature) -> str:
    """Why what one takes or gives is not what the other does, or nothing; a size may vary in one alone."""
    for what, ours, theirs in (
        ("takes", first.inputs, second.inputs),
        ("gives", first.outputs, second.outputs),
    ):
        if len(ours) != len(theirs) or not all(map(_alike, ours, theirs)):
            return f"A {what} {', '.join(map(str, ours))}; B {', '.join(map(str, theirs))}"
    return ""


def _alike(one: TensorSpec, other: TensorSpec) -> bool:
    if (one.name, one.dtype, len(one.shape)) != (other.name, other.dtype, len(other.shape)):
        return False
    return all(isinstance(a, str) or isinstance(b, str) or a == b for a, b in zip(one.shape, other.shape, strict=True))


def _recorded(inputs: Sample, golden: Sequence[Golden]) -> Sample | None:
    """What was answered to these inputs when the bundle was made; None where they are not among `golden`."""
    return next((known.outputs for known in golden if _same(known.inputs, inputs)), None)


def _same(one: Sample, other: Sample) -> bool:
    return all(np.array_equal(one[name], other[name]) for name in other)


def answers_on(first: Bundle, second: Bundle, data: str, preprocess: str | None, progress: Progress) -> Answers:
    """On the user's samples, which both answer here.

    Raises:
        InvalidInput: the two do not take and give the same tensors, or the data does not fit them.
    """
    if apart := differ(first.signature, second.signature):
        raise InvalidInput(apart, hint="leave --data out: figures and passes are compared all the same")
    recorded = load_config(first.path / "recipe.yaml").preprocess
    loaded = load_data(data, first.signature, preprocess=recorded if preprocess is None else preprocess)
    check_preprocess_used(preprocess, loaded)
    have, want = [], []
    for done, sample in enumerate(loaded, start=1):
        want.append(first(sample))
        have.append(second(sample))
        progress("answering", done / len(loaded))
    return compared(f"samples of {loaded.name}", want, have, loaded)


def compared(name: str, want: Sequence[Sample], have: Sequence[Sample], data: Dataset | None) -> Answers:
    """Answers of two to the same samples; `data` has their labels, if they have any."""
    output = next(iter(want[0]))
    pairs = [(a[output], b[output]) for a, b in zip(want, have, strict=True)]
    are_classes = all(_is_row(a) and _is_row(b) for a, b in pairs)
    return Answers(
        data=name,
        samples=len(want),
        drift=drifts(want, have),
        same_class=sum(map(_same_class, *zip(*pairs, strict=True))) if are_classes else None,
        metric=metric_change(want, have, data.labels, TOP1) if data is not None and data.labels is not None else None,
    )


def _is_row(answer: Array) -> bool:
    return answer.ndim == 2 and len(answer) == 1 and answer.shape[1] > 1


def _same_class(one: Array, other: Array) -> bool:
    """What is not a number is of no class."""
    return not (np.isnan(one).any() or np.isnan(other).any()) and bool(one.argmax() == other.argmax())
