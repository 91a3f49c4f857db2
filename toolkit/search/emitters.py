"""Who proposes configurations: by design, from the archive, or from a front.

What an emitter proposes follows from what it was told so far, the archive, and the generator it is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from toolkit.search.archive import CVTArchive
from toolkit.search.config_space import Config, ConfigSpace
from toolkit.search.elites import Candidate, Elite
from toolkit.search.genes import Value
from toolkit.search.genomes import Genome, genome_id
from toolkit.search.leading import goals_of
from toolkit.search.nsga2 import crowding_order
from toolkit.search.variation import block_moved, crossed, mutated, sample_stratified

__all__ = ["Blocks", "Emitter", "Front", "Genetic", "Proposal", "Stratified", "standard"]

_POPULATION = 32


class Proposal(NamedTuple):
    """A legal configuration, and the ids of what it was made from."""

    config: Config
    parents: tuple[str, ...] = ()


class Emitter(Protocol):
    """One way to propose."""

    name: str

    def propose(self, space: ConfigSpace, archive: CVTArchive, rng: np.random.Generator) -> Proposal:
        """A configuration; `archive` is for reading."""

    def told(self, candidates: Sequence[Candidate], archive: CVTArchive) -> None:
        """Of all that came in, whoever proposed it."""


class Stratified:
    """By design: groups of genes with levels in shares of their own."""

    name = "stratified"

    def propose(self, space: ConfigSpace, archive: CVTArchive, rng: np.random.Generator) -> Proposal:
        """See `sample_stratified`."""
        return Proposal(sample_stratified(space, rng))

    def told(self, candidates: Sequence[Candidate], archive: CVTArchive) -> None:
        """Nothing is learnt."""


class Genetic:
    """A step from an elite, crossed with another one."""

    name = "genetic"

    def propose(self, space: ConfigSpace, archive: CVTArchive, rng: np.random.Generator) -> Proposal:
        """A child of two elites; by design where there is none."""
        if not len(archive):
            return Proposal(sample_stratified(space, rng))
        first, second = _tournament(archive, rng), _tournament(archive, rng)
        child = crossed(space, _config(first.genome), _config(second.genome), rng)
        return Proposal(mutated(space, child, rng), (first.id, second.id))

    def told(self, candidates: Sequence[Candidate], archive: CVTArchive) -> None:
        """Nothing beside what the archive keeps."""


class Blocks:
    """An elite with one group of genes moved: all layers' bits down, say."""

    name = "blocks"

    def propose(self, space: ConfigSpace, archive: CVTArchive, rng: np.random.Generator) -> Proposal:
        """A child of one elite; by design where there is none."""
        if not len(archive):
            return Proposal(sample_stratified(space, rng))
        parent = _tournament(archive, rng)
        return Proposal(block_moved(space, _config(parent.genome), rng), (parent.id,))

    def told(self, candidates: Sequence[Candidate], archive: CVTArchive) -> None:
        """Nothing beside what the archive keeps."""


def _tournament(archive: CVTArchive, rng: np.random.Generator) -> Elite:
    """Of two elites drawn by curiosity the one that breaks the constraints less; of equals the first."""
    first, second = archive.sample(2, rng, weights="curiosity")
    return second if second.violation < first.violation else first


class Front:
    """NSGA-II: children of a population that spreads along the front of quality and objectives.

    Args:
        objectives: Names of measures beside quality, each larger- or smaller-is-better.
        population: How many stay.
    """

    name = "front"

    def __init__(self, objectives: Sequence[str], population: int = _POPULATION) -> None:
        self.objectives, self.population = tuple(objectives), population
        self._members: list[Candidate] = []

    def propose(self, space: ConfigSpace, archive: CVTArchive, rng: np.random.Generator) -> Proposal:
        """A child of two winners of tournaments; by design while there are fewer than two members."""
        if len(self._members) < 2:
            return Proposal(sample_stratified(space, rng))
        # members stand best first, so the smaller place wins
        mother, father = (int(rng.integers(len(self._members), size=2).min()) for _ in range(2))
        first, second = (_config(self._members[k].genome) for k in (mother, father))
        child = crossed(space, first, second, rng, 0.5)
        return Proposal(mutated(space, child, rng), (genome_id(first), genome_id(second)))

    def told(self, candidates: Sequence[Candidate], archive: CVTArchive) -> None:
        """The best of the population and the new ones stay."""
        self._members += candidates
        if not self._members:
            return
        goals = goals_of(archive.space, self.objectives, self._members)
        violation = np.array([member.violation for member in self._members])
        kept = crowding_order(goals, violation)[: self.population].tolist()
        self._members = [self._members[k] for k in kept]


def _config(genome: Genome) -> Mapping[str, Value]:
    assert isinstance(genome, Mapping)
    return genome


def standard(objectives: Sequence[str]) -> list[Emitter]:
    """All of them. Stratified sampling is one: where nothing else helps, it is what to fall back on."""
    return [Genetic(), Blocks(), Front(objectives), Stratified()]
