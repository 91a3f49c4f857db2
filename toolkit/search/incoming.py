"""Candidates as columns, for the time of one offer to an archive."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.search.elites import Candidate
from toolkit.search.genomes import Genome
from toolkit.search.measures import Floats

__all__ = ["Incoming"]


@dataclass
class Incoming:
    """`k` candidates; what each field is, `Candidate` says.

    Args:
        genomes: (k, ...).
        measures: (k, m) raw.
        unit: (k, m), of BehaviorSpace.normalize.
        score: (k,) what is compared, of `preference.scores`.
    """

    genomes: Sequence[Genome] | NDArray[Any]
    measures: Floats
    quality: Floats
    n: NDArray[np.int64]
    m2: Floats
    violation: Floats
    unit: Floats
    score: Floats
    examples: Sequence[Floats | None] | None = None
    meta: Sequence[Mapping[str, Any]] | None = None
    parents: Sequence[tuple[str, ...]] | None = None

    def __len__(self) -> int:
        return len(self.quality)

    @property
    def is_more_than_genomes(self) -> bool:
        """Whether anything that is no number came with them."""
        return not (self.examples is None and self.meta is None and self.parents is None)

    def valid(self) -> NDArray[np.bool_]:
        """(k,) whether all numbers of a row mean something."""
        with np.errstate(invalid="ignore"):
            sound: NDArray[np.bool_] = (
                np.isfinite(self.quality + self.m2 + self.violation + self.unit.sum(1))
                & (self.violation >= 0) & (self.m2 >= 0) & (self.n >= 1)
            )  # fmt: skip
        return sound

    def candidate(self, row: int) -> Candidate:
        """One of them."""
        return Candidate(
            self.genomes[row], self.measures[row], float(self.quality[row]), int(self.n[row]), float(self.m2[row]),
            float(self.violation[row]), None if self.examples is None else self.examples[row],
            {} if self.meta is None else self.meta[row], () if self.parents is None else self.parents[row],
        )  # fmt: skip
