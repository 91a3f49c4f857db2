"""What comes into an archive, what it keeps, and what it says of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from toolkit.search.genomes import Genome
from toolkit.search.measures import Floats

__all__ = ["AddReport", "Candidate", "Elite", "Evaluation", "Outcome", "merged"]

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class Outcome(IntEnum):
    """What became of a candidate."""

    INVALID = -1
    """A measure, the quality or the violation is not a number that means anything."""
    REJECTED = 0
    IMPROVED = 1
    NEW = 2
    """The first of its cell."""


class Evaluation(NamedTuple):
    """A quality measured `n` times: its mean and the sum of squared deviations from it."""

    quality: float
    n: int = 1
    m2: float = 0.0

    @property
    def sd(self) -> float:
        """Of one measurement; 0 where there is one alone."""
        return float(np.sqrt(self.m2 / (self.n - 1))) if self.n > 1 else 0.0


def merged(a: Evaluation, b: Evaluation) -> Evaluation:
    """Both together. Source: Chan, Golub, LeVeque 1979."""
    n = a.n + b.n
    gap = b.quality - a.quality
    return Evaluation(a.quality + gap * b.n / n, n, a.m2 + b.m2 + gap * gap * a.n * b.n / n)


class Candidate(NamedTuple):
    """What is offered to an archive.

    Args:
        genome: What it is.
        measures: (m,) raw, in the units of the space.
        quality: Mean of `n` measurements; larger is better.
        m2: Sum of the squared deviations of those from their mean.
        violation: By how much it breaks the constraints; 0 keeps them all.
        examples: (v,) quality on each example, for the policy "paired".
        meta: What is kept beside it, as JSON.
        parents: Ids of the elites it was made from.
    """

    genome: Genome
    measures: Floats
    quality: float
    n: int = 1
    m2: float = 0.0
    violation: float = 0.0
    examples: Floats | None = None
    meta: Mapping[str, Any] = _NOTHING
    parents: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Elite:
    """The best of its cell. Its arrays cannot be written to.

    Args:
        cell: Index of its cell.
        genome: As it was offered, frozen.
        measures: (m,) raw.
        unit: (m,) in the unit cube.
        birth: How many candidates the archive had seen.
        curiosity: How much likelier than others it is drawn as a parent by "curiosity".
    """

    id: str
    cell: int
    genome: Genome = field(repr=False)
    evaluation: Evaluation
    measures: Floats
    unit: Floats = field(repr=False)
    violation: float
    birth: int
    curiosity: float = 0.0
    examples: Floats | None = field(default=None, repr=False)
    meta: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    parents: tuple[str, ...] = ()

    @property
    def quality(self) -> float:
        """Mean of its measurements."""
        return self.evaluation.quality

    def candidate(self) -> Candidate:
        """As it would be offered to another archive."""
        return Candidate(self.genome, self.measures, *self.evaluation, violation=self.violation,
                         examples=self.examples, meta=self.meta, parents=self.parents)  # fmt: skip


@dataclass(frozen=True)
class AddReport:
    """What became of each candidate of a batch, judged by the archive after the whole batch.

    Args:
        outcome: (n,) of Outcome.
        cell: (n,); -1 where invalid.
        delta: (n,) quality gained over the elite that it replaced; its own quality where it is the first; else 0.
        clipped: (n,) whether a measure lay outside its range.
    """

    outcome: NDArray[np.int8]
    cell: NDArray[np.intp]
    delta: Floats
    clipped: NDArray[np.bool_]

    @classmethod
    def of(cls, count: int, clipped: NDArray[np.bool_] | None = None) -> AddReport:
        """Of `count` candidates that were rejected so far."""
        unclipped = np.zeros(count, bool) if clipped is None else clipped
        return cls(np.zeros(count, np.int8), np.full(count, -1, np.intp), np.zeros(count), unclipped)

    def __len__(self) -> int:
        return len(self.outcome)

    def count(self, outcome: Outcome) -> int:
        """How many came to this."""
        return int((self.outcome == outcome).sum())
