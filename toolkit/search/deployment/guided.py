"""Emitters that ask a model of the quality: of many candidates the one that is expected to improve most.

Prices of a candidate come from tables, so its cell and its place under the front are known; its quality is predicted,
with an error. Source: expected improvement, Jones, Schonlau, Welch 1998; over the cells of an archive, Gaier, Asteroth,
Mouret 2018 (SAIL); of the volume under a front, Emmerich, Giannakoglou, Naujoks 2006.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import norm

from toolkit.search.archive import CVTArchive
from toolkit.search.config_space import Config, ConfigSpace
from toolkit.search.deployment.predicted import Predictor
from toolkit.search.deployment.prices import MEASURES, broken
from toolkit.search.deployment.tables import Tables
from toolkit.search.elites import Candidate
from toolkit.search.emitters import Emitter, Proposal
from toolkit.search.genes import Value
from toolkit.search.genomes import genome_id
from toolkit.search.measures import Floats
from toolkit.search.variation import block_moved, crossed, mutated, sample_stratified

__all__ = ["Guided", "GuidedFront", "guides"]

_LEAST = 24
_POOL = 96
_Member = tuple[float, float, Config | None]
"""Place, quality, and configuration of what was evaluated."""
_NAMES = tuple(measure.name for measure in MEASURES)


class _Asking(ABC):
    """Draws candidates that were not evaluated yet, and proposes the one of the greatest expected gain.

    Args:
        limits: The most that a measure may be, by name; what is predicted to exceed one is left to others.
        predictor: May be shared by emitters of one search: told twice, it learns once.
    """

    def __init__(self, tables: Tables, limits: Mapping[str, float], predictor: Predictor) -> None:
        self._tables, self._limits, self._predictor = tables, dict(limits), predictor

    def propose(self, space: ConfigSpace, archive: CVTArchive, rng: np.random.Generator) -> Proposal:
        """By design until there is enough to learn from."""
        if len(self._predictor) < _LEAST or not len(archive):
            return Proposal(sample_stratified(space, rng))
        found: dict[str, Proposal] = {}
        for proposal in self._drawn(space, archive, rng):
            if (key := genome_id(proposal.config)) not in self._predictor:
                found.setdefault(key, proposal)
        pool = list(found.values())
        if not pool:
            return Proposal(sample_stratified(space, rng))
        configs = [proposal.config for proposal in pool]
        measures = self._tables.measures(configs)
        mean, deviation = self._predictor.predicted(space, configs)
        over = [broken(self._limits, dict(zip(_NAMES, row, strict=True))) > 0 for row in measures.tolist()]
        best = int(np.where(over, -1.0, self._gains(archive, measures, mean, deviation)).argmax())
        self._proposed(archive, measures[best], float(mean[best]))
        return pool[best]

    def told(self, candidates: Sequence[Candidate], archive: CVTArchive) -> None:
        """Of all that came in, whoever proposed it."""
        self._predictor.told(candidates)

    def _proposed(self, archive: CVTArchive, measures: Floats, quality: float) -> None:  # noqa: B027 - most forget it
        """Take note of what was proposed, with its measures (5,), and of the quality that is expected of it."""

    @abstractmethod
    def _drawn(self, space: ConfigSpace, archive: CVTArchive, rng: np.random.Generator) -> list[Proposal]:
        """Candidates, as many as may be predicted at once."""

    @abstractmethod
    def _gains(self, archive: CVTArchive, measures: Floats, mean: Floats, deviation: Floats) -> Floats:
        """(n,) of candidates with these measures (n, 5), and a quality of this mean and deviation (n,)."""


class Guided(_Asking):
    """What is expected to improve its cell most."""

    name = "guided"

    def _drawn(self, space: ConfigSpace, archive: CVTArchive, rng: np.random.Generator) -> list[Proposal]:
        found = []
        for k, parent in enumerate(archive.sample(_POOL, rng)):
            if k % 4 == 0:
                found.append(Proposal(sample_stratified(space, rng)))
            else:
                vary = block_moved if k % 4 == 1 else mutated
                found.append(Proposal(vary(space, _config(parent.genome), rng), (parent.id,)))
        return found

    def _gains(self, archive: CVTArchive, measures: Floats, mean: Floats, deviation: Floats) -> Floats:
        """Over the elite of the cell, or over the worst there is in an empty one."""
        columns = [k for k, name in enumerate(_NAMES) if name in archive.space.names]
        best = np.full(len(measures), archive.quality_min)
        for row, cell in enumerate(archive.cell_of(measures[:, columns]).tolist()):
            elite = archive.get(cell) if cell >= 0 else None
            if elite is not None and elite.violation == 0:
                best[row] = elite.quality
        return _expected(mean, deviation, best)


class GuidedFront(_Asking):
    """What is expected to add most to the volume under the front of quality against one objective.

    Args:
        objective: Name of the measure, larger- or smaller-is-better.
    """

    name = "guided front"

    def __init__(
        self, tables: Tables, limits: Mapping[str, float], predictor: Predictor, objective: str
    ) -> None:  # fmt: skip
        super().__init__(tables, limits, predictor)
        self._objective, self._column = objective, _NAMES.index(objective)
        self._front: list[_Member] = []
        self._believed: list[_Member] = []
        """What was proposed since results came in: the next proposal adds to it, not the same once more."""

    def told(self, candidates: Sequence[Candidate], archive: CVTArchive) -> None:
        """Of all that came in, whoever proposed it."""
        super().told(candidates, archive)
        column = archive.space.names.index(self._objective)
        kept = [candidate for candidate in candidates if candidate.violation == 0]
        places = self._places(archive, np.array([candidate.measures[column] for candidate in kept]))
        self._front = _front_of([*self._front, *(
            (place, float(candidate.quality), dict(_config(candidate.genome)))
            for place, candidate in zip(places.tolist(), kept, strict=True)
        )])  # fmt: skip
        self._believed = []

    def _drawn(self, space: ConfigSpace, archive: CVTArchive, rng: np.random.Generator) -> list[Proposal]:
        """Mostly steps from the front, some from elites, a few by design."""
        members = [config for _, _, config in self._front if config is not None]
        elites = archive.sample(_POOL, rng)
        found = []
        for k, elite in enumerate(elites):
            if k % 8 == 0 or not members:
                found.append(Proposal(sample_stratified(space, rng)))
                continue
            start = _config(elite.genome) if k % 4 == 1 else members[int(rng.integers(len(members)))]
            if k % 4 == 3:
                start = crossed(space, start, members[int(rng.integers(len(members)))], rng, 0.5)
            vary = block_moved if k % 8 == 5 else mutated
            found.append(Proposal(vary(space, start, rng), (genome_id(start),)))
        return found

    def _gains(self, archive: CVTArchive, measures: Floats, mean: Floats, deviation: Floats) -> Floats:
        """Strip by strip under the front, the width that the candidate covers times the improvement expected there."""
        front = _front_of([*self._front, *self._believed])
        ends = np.array([place for place, _, _ in front][::-1])
        height = np.append([quality for _, quality, _ in front][::-1], archive.quality_min)
        left, right = np.append(0.0, ends), np.append(ends, 1.0)
        place = self._places(archive, measures[:, self._column])
        width = np.clip(np.minimum(place[:, None], right) - left, 0.0, None)
        gains: Floats = (width * _expected(mean[:, None], deviation[:, None], height)).sum(1)
        return gains

    def _proposed(self, archive: CVTArchive, measures: Floats, quality: float) -> None:
        place = self._places(archive, measures[self._column : self._column + 1])
        self._believed.append((float(place[0]), quality, None))

    def _places(self, archive: CVTArchive, raw: Floats) -> Floats:
        """On the scale on which steps are even, from the worst end of the range, 0, to the best, 1."""
        measure = archive.space.measures[archive.space.names.index(self._objective)]
        low, high = measure.stretch(np.array([measure.low, measure.high]))
        place: Floats = (measure.stretch(np.clip(raw, measure.low, measure.high)) - low) / (high - low)
        return place if measure.larger_is == "better" else 1 - place


def guides(tables: Tables, limits: Mapping[str, float], objectives: Sequence[str]) -> list[Emitter]:
    """Both, with one model of the quality; the front is that of the first of `objectives`, if there is any."""
    predictor = Predictor()
    fronts = [GuidedFront(tables, limits, predictor, name) for name in objectives[:1]]
    return [Guided(tables, limits, predictor), *fronts]


def _expected(mean: Floats, deviation: Floats, best: Floats) -> Floats:
    """Improvement over `best` of what is normally distributed."""
    z = (mean - best) / deviation
    gains: Floats = (mean - best) * norm.cdf(z) + deviation * norm.pdf(z)
    return gains


def _front_of(members: Sequence[_Member]) -> list[_Member]:
    """Those that no other one equals or beats in both, better places first and so worse qualities first."""
    front: list[_Member] = []
    for member in sorted(members, key=lambda m: (-m[0], -m[1])):
        if not front or member[1] > front[-1][1]:
            front.append(member)
    return front


def _config(genome: object) -> Mapping[str, Value]:
    assert isinstance(genome, Mapping)
    return genome
