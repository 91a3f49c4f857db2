"""Elites as columns: numbers, and genomes that are vectors of one kind, in arrays; all else in a mapping, by slot."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from toolkit.search.elites import Candidate, Elite, Evaluation
from toolkit.search.genomes import Genome, frozen, genome_bytes, genome_id
from toolkit.search.incoming import Incoming
from toolkit.search.measures import Floats

__all__ = ["Columns"]

Slots = NDArray[np.intp]


class _Rest(NamedTuple):
    """What of an elite is no number. The genome is None where it is a vector in a column."""

    genome: Genome | None
    examples: Floats | None
    meta: Mapping[str, Any]
    parents: tuple[str, ...]


_NO_REST = _Rest(None, None, MappingProxyType({}), ())


class Columns:
    """Room for `slots` elites of `measures` measures. An empty slot loses against everything.

    The id of a genome is a digest of all its bytes: it is taken when somebody asks for it.
    """

    def __init__(self, slots: int, measures: int) -> None:
        self.taken = np.zeros(slots, bool)
        self.score = np.full(slots, -np.inf)
        self.violation = np.full(slots, np.inf)
        self.quality = np.zeros(slots)
        self.n = np.ones(slots, np.int64)
        self.m2 = np.zeros(slots)
        self.birth = np.zeros(slots, np.int64)
        self.nbytes = np.zeros(slots, np.int64)
        self.curiosity = np.zeros(slots)
        self.measures = np.zeros((slots, measures))
        self.unit = np.zeros((slots, measures))
        self._vectors: NDArray[Any] | None = None
        self._is_vector = np.zeros(slots, bool)
        self._rest: dict[int, _Rest] = {}
        self._ids: dict[int, str] = {}

    def genome_of(self, slot: int) -> Genome:
        """The genome in `slot`; nobody can change it."""
        if self._is_vector[slot]:
            assert self._vectors is not None
            return frozen(self._vectors[slot])
        genome = self._rest[slot].genome
        assert genome is not None
        return genome

    def examples_of(self, slot: int) -> Floats | None:
        """Qualities on each example, where they were given."""
        return self._rest.get(slot, _NO_REST).examples

    def rehouse(self, slot: int, genome: Genome) -> None:
        """Keep an equal genome that lies somewhere else."""
        self._is_vector[slot] = False
        self._rest[slot] = self._rest.get(slot, _NO_REST)._replace(genome=genome)

    def id_of(self, slot: int) -> str:
        """The id of the elite in `slot`."""
        if slot not in self._ids:
            self._ids[slot] = genome_id(self.genome_of(slot))
        return self._ids[slot]

    def slot_of(self, elite_id: str) -> int | None:
        """Where the elite called `elite_id` is, if it is here."""
        return next((int(s) for s in np.flatnonzero(self.taken) if self.id_of(int(s)) == elite_id), None)

    def clear(self, slot: int) -> None:
        """Make a slot empty."""
        self.taken[slot], self.score[slot], self.violation[slot] = False, -np.inf, np.inf
        self.nbytes[slot], self._is_vector[slot] = 0, False
        self._rest.pop(slot, None)
        self._ids.pop(slot, None)

    def place(self, slots: Slots, incoming: Incoming, rows: Slots, *, birth: NDArray[np.int64]) -> None:
        """Put frozen copies of the candidates `rows` (k,) into `slots` (k,), whatever was there."""
        self.taken[slots], self.birth[slots], self.curiosity[slots] = True, birth, 0.0
        self.score[slots], self.violation[slots] = incoming.score[rows], incoming.violation[rows]
        self.quality[slots], self.n[slots], self.m2[slots] = incoming.quality[rows], incoming.n[rows], incoming.m2[rows]
        self.measures[slots], self.unit[slots] = incoming.measures[rows], incoming.unit[rows]
        vectors = self._vectors_for(incoming)
        if vectors is None:
            for slot, row in zip(slots.tolist(), rows.tolist(), strict=True):
                self._keep(slot, incoming.candidate(row))
            return
        vectors[slots] = np.asarray(incoming.genomes)[rows]
        self._is_vector[slots], self.nbytes[slots] = True, vectors[0].nbytes
        for slot in slots.tolist() if self._rest or self._ids else ():
            self._rest.pop(slot, None)
            self._ids.pop(slot, None)

    def _vectors_for(self, incoming: Incoming) -> NDArray[Any] | None:
        """Where these genomes go if they are vectors of the one kind, and nothing comes with them."""
        offered = incoming.genomes
        if not isinstance(offered, np.ndarray) or offered.ndim != 2 or incoming.is_more_than_genomes:
            return None
        if self._vectors is None:
            self._vectors = np.zeros((len(self.taken), offered.shape[1]), offered.dtype)
        is_alike = self._vectors.shape[1] == offered.shape[1] and self._vectors.dtype == offered.dtype
        return self._vectors if is_alike else None

    def put(self, slot: int, candidate: Candidate, unit: Floats, score: float, *, birth: int) -> None:
        """Put a frozen copy of one candidate into a slot, whatever was there."""
        self.taken[slot], self.birth[slot], self.curiosity[slot] = True, birth, 0.0
        self.score[slot], self.violation[slot] = score, candidate.violation
        self.quality[slot], self.n[slot], self.m2[slot] = candidate.quality, candidate.n, candidate.m2
        self.measures[slot], self.unit[slot] = candidate.measures, unit
        self._keep(slot, candidate)

    def _keep(self, slot: int, candidate: Candidate) -> None:
        kept = frozen(candidate.genome)
        examples = None if candidate.examples is None else _fixed(candidate.examples)
        self._rest[slot] = _Rest(kept, examples, candidate.meta, candidate.parents)
        self.nbytes[slot], self._is_vector[slot] = genome_bytes(kept), False
        self._ids.pop(slot, None)

    def elite(self, slot: int, cell: int) -> Elite:
        """What is in a slot, as a value of its own."""
        rest = self._rest.get(slot, _NO_REST)
        return Elite(
            id=self.id_of(slot), cell=cell, genome=self.genome_of(slot), measures=_fixed(self.measures[slot]),
            evaluation=Evaluation(float(self.quality[slot]), int(self.n[slot]), float(self.m2[slot])),
            unit=_fixed(self.unit[slot]), violation=float(self.violation[slot]), birth=int(self.birth[slot]),
            curiosity=float(self.curiosity[slot]),
            examples=rest.examples, meta=rest.meta, parents=rest.parents,
        )  # fmt: skip


def _fixed(row: Floats) -> Floats:
    copy = np.array(row, np.float64)
    copy.flags.writeable = False
    return copy
