"""The archive: of every kind of candidate, the best one.

CVT-MAP-Elites (Vassiliades, Chatzilygeroudis, Mouret 2018) with measures that carry units, constraints as an order and
not as a penalty, and noise that is dealt with by a stated policy. For the policies "mean" and "lcb" with one elite a
cell the order of preference is total, so the archive is a join-semilattice: what it holds depends on the set of
candidates alone, not on their order, their batches, or the way in which archives were merged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import ArchiveFormatError, DescriptorError
from toolkit.search.archive_view import ArchiveView
from toolkit.search.behavior import CLIPPED, NOT_FINITE, BehaviorSpace
from toolkit.search.cells import Cells
from toolkit.search.clipping import ClippingWatch
from toolkit.search.contests import Contest
from toolkit.search.crowding import make_room
from toolkit.search.elites import AddReport, Candidate, Evaluation, Outcome, merged
from toolkit.search.genomes import Genome, genome_bytes, genome_id
from toolkit.search.incoming import Incoming
from toolkit.search.measures import Floats
from toolkit.search.preference import Policy, rounded_one, scores
from toolkit.search.winners import is_preferred, winners

__all__ = ["CVTArchive"]


class CVTArchive(ArchiveView):
    """Cells over a behaviour space; each keeps the best candidate, or a small front.

    Args:
        space: How measures become places.
        centroids: (c, m) in the unit cube, one a cell; see `cvt_centroids`.
        policy: How noisy qualities are compared; "paired" wants `examples` with every candidate.
        z: Standard errors that "lcb" takes off and that "paired" asks for.
        front_size: Elites a cell may hold: above 1, those that no other beats in quality and all `objectives`.
        objectives: Names of measures that say what is better, for fronts.
        quality_min: Quality from which the score of the archive counts; the worst that is worth anything.
        quality_max: The best there can be.
        budget_bytes: Of all genomes; None is no limit.
        over_budget: Refuse what does not fit, or let the worst elite of the most crowded neighbourhood go for it.

    Raises:
        DescriptorError: these do not go together.
    """

    def __init__(
        self, space: BehaviorSpace, centroids: Floats, *, quality_min: float, quality_max: float,
        policy: Policy = "mean", z: float = 1.0, front_size: int = 1, objectives: Sequence[str] = (),
        budget_bytes: int | None = None, over_budget: Literal["refuse", "evict"] = "refuse",
    ) -> None:  # fmt: skip
        cells = Cells(centroids)
        if cells.centroids.shape[1] != len(space):
            raise DescriptorError(
                f"centroids of {cells.centroids.shape[1]} measures in a space of {len(space)}",
                hint="make them with cvt_centroids(cells, len(space))",
            )
        if not quality_min < quality_max or front_size < 1 or z < 0:
            raise DescriptorError(
                f"qualities from {quality_min} to {quality_max}, {front_size} elites a cell, z = {z}",
                hint="quality_min below quality_max, front_size from 1, z from 0",
            )
        super().__init__(space, cells, front_size=front_size)
        self.quality_min, self.quality_max = quality_min, quality_max
        self.policy, self.z = policy, z
        self.objectives = tuple(objectives)
        self.budget_bytes, self.over_budget = budget_bytes, over_budget
        self._contest = Contest(space, front_size=front_size, objectives=self.objectives, z=z,
                                quality_range=(quality_min, quality_max))  # fmt: skip
        self._has_total_order = front_size == 1 and policy != "paired"
        self._clipping = ClippingWatch(space)
        self._seen = 0

    # ---- what comes in

    def add(self, batch: Sequence[Candidate]) -> AddReport:
        """Offer candidates; each stays or goes by the order of preference. An invalid one concerns no other.

        Raises:
            BudgetExceeded: the genomes do not fit; nothing was changed.
            DescriptorError: measures of another length, or no examples for the policy "paired".
        """
        if not batch:
            return AddReport.of(0)
        if len(batch) == 1 and self._is_simple(batch[0]):
            return self._add_one(batch[0])
        return self.add_arrays(
            [c.genome for c in batch], np.array([c.measures for c in batch], np.float64),
            np.array([c.quality for c in batch], np.float64), n=np.array([c.n for c in batch], np.int64),
            m2=np.array([c.m2 for c in batch], np.float64),
            violation=np.array([c.violation for c in batch], np.float64),
            examples=[c.examples for c in batch] if self.policy == "paired" else None,
            meta=[c.meta for c in batch], parents=[c.parents for c in batch],
        )  # fmt: skip

    def add_arrays(
        self, genomes: Sequence[Genome] | NDArray[Any], measures: Floats, quality: Floats, *,
        n: NDArray[np.int64] | None = None, m2: Floats | None = None, violation: Floats | None = None,
        examples: Sequence[Floats | None] | None = None, meta: Sequence[Mapping[str, Any]] | None = None,
        parents: Sequence[tuple[str, ...]] | None = None,
    ) -> AddReport:  # fmt: skip
        """`add` for columns: `genomes` (k, ...), `measures` (k, m), the others (k,)."""
        raw, quality = np.asarray(measures, np.float64), np.asarray(quality, np.float64)
        count = len(quality)
        n = np.ones(count, np.int64) if n is None else np.asarray(n, np.int64)
        m2 = np.zeros(count) if m2 is None else np.asarray(m2, np.float64)
        violation = np.zeros(count) if violation is None else np.asarray(violation, np.float64)
        unit, flags = self.space.normalize(raw)
        incoming = Incoming(genomes, raw, quality, n, m2, violation, unit, scores(self.policy, self.z, quality, n, m2),
                            examples, meta, parents)  # fmt: skip
        report = AddReport.of(count, clipped=flags == CLIPPED)
        valid = incoming.valid()
        report.outcome[~valid] = Outcome.INVALID
        report.cell[valid] = self.cells.of(unit if valid.all() else unit[valid])
        chosen = self._in_order(incoming, report.cell, valid)
        if self.budget_bytes is not None and chosen:
            self._make_room(self.budget_bytes, incoming, report.cell, chosen)
        if self._has_total_order:
            self._place(incoming, np.array(chosen, np.intp), report)
        else:
            for row in chosen:
                self._offer(incoming, row, report)
        self._credit(incoming, report)
        self._clipping.see(report.clipped.tolist(), raw)
        self._seen += count
        return report

    def _is_simple(self, candidate: Candidate) -> bool:
        """Whether no more is to be seen to than which of two is better."""
        numbers = candidate.quality + candidate.violation
        return (
            self._has_total_order and self.budget_bytes is None and not candidate.parents and candidate.n == 1
            and candidate.m2 == 0 and isfinite(numbers) and candidate.violation >= 0
        )  # fmt: skip

    def _add_one(self, candidate: Candidate) -> AddReport:
        """What `add_arrays` does, without the cost of columns of one row."""
        raw = np.array(candidate.measures, np.float64)
        unit, flag = self.space.normalize_one(raw)
        report = AddReport.of(1)
        self._seen += 1
        self._clipping.see([flag == CLIPPED], raw[None])
        if flag == NOT_FINITE:
            report.outcome[0] = Outcome.INVALID
            return report
        cell = self.cells.of_one(unit)
        report.cell[0], report.clipped[0] = cell, flag == CLIPPED
        score, columns = rounded_one(float(candidate.quality)), self._columns
        if not is_preferred(candidate.violation, score, candidate.genome, columns, cell):
            return report
        is_first = not columns.taken[cell]
        report.outcome[0] = Outcome.NEW if is_first else Outcome.IMPROVED
        report.delta[0] = candidate.quality - (0.0 if is_first else columns.quality[cell])
        columns.put(cell, candidate, unit, score, birth=self._seen - 1)
        return report

    def update(self, elite_id: str, more: Evaluation) -> None:
        """Merge further measurements of an elite into it. It stays, whatever they say.

        Raises:
            DescriptorError: there is no such elite, or the measurement is not finite.
        """
        slot = self._columns.slot_of(elite_id)
        if slot is None or not np.isfinite([more.quality, more.m2]).all() or more.n < 1:
            raise DescriptorError(
                f"no update of {elite_id!r} by {more}", hint="update a present elite by finite values"
            )
        columns = self._columns
        both = merged(Evaluation(float(columns.quality[slot]), int(columns.n[slot]), float(columns.m2[slot])), more)
        columns.quality[slot], columns.n[slot], columns.m2[slot] = both
        row = slice(slot, slot + 1)
        columns.score[row] = scores(self.policy, self.z, columns.quality[row], columns.n[row], columns.m2[row])

    def merge(self, other: CVTArchive) -> AddReport:
        """Offer every elite of `other`.

        Raises:
            ArchiveFormatError: it divides another space, or divides it otherwise.
        """
        if other.space.digest != self.space.digest or other.cells.digest != self.cells.digest:
            raise ArchiveFormatError(
                "these archives have different cells or spaces", hint="add the elites' raw measures to one of them anew"
            )
        return self.add([elite.candidate() for elite in other])

    def empty(self) -> CVTArchive:
        """Another archive of the same cells and rules, with nothing in it."""
        return CVTArchive(self.space, self.cells.centroids, **self.rules)

    @property
    def rules(self) -> dict[str, Any]:
        """All that decides who stays, as JSON: the constructor's arguments beside the space and the centroids."""
        return {"quality_min": self.quality_min, "quality_max": self.quality_max, "policy": self.policy, "z": self.z,
                "front_size": self.front_size, "objectives": list(self.objectives),
                "budget_bytes": self.budget_bytes, "over_budget": self.over_budget}  # fmt: skip

    def restore(self, elites: Iterable[tuple[Candidate, int]], *, seen: int) -> None:
        """Offer what stayed once, each with its birth, as if nothing had been refused in between."""
        for candidate, birth in elites:
            self._seen = birth
            self.add([candidate])
        self._seen = seen

    def set_curiosity(self, values: Sequence[float]) -> None:
        """What `Elite.curiosity` says of all elites, in their order."""
        self._columns.curiosity[self._columns.taken] = values

    def rehouse(self, genomes: Mapping[str, Genome]) -> None:
        """Let genomes, by id, take the place of equal ones: mapped from a file, they take no memory of their own."""
        for slot in np.flatnonzero(self._columns.taken).tolist():
            kept = genomes.get(self._columns.id_of(slot))
            if kept is not None:
                self._columns.rehouse(slot, kept)

    @property
    def seen(self) -> int:
        """Candidates ever offered."""
        return self._seen

    # ---- who stays

    def _in_order(self, incoming: Incoming, cell: NDArray[np.intp], valid: NDArray[np.bool_]) -> list[int]:
        """Rows to be offered one by one: the winners where the order is total, else all of them, by id."""
        if self._has_total_order:
            best: list[int] = winners(self._columns, incoming, cell, valid).tolist()
            return best
        rows: list[int] = np.flatnonzero(valid).tolist()
        return sorted(rows, key=lambda row: genome_id(incoming.genomes[row]))

    def _make_room(self, budget_bytes: int, incoming: Incoming, cell: NDArray[np.intp], chosen: list[int]) -> None:
        """Let elites go for what was chosen, or refuse all of it."""
        sizes = [genome_bytes(incoming.genomes[row]) for row in chosen]
        replaced = self._columns.nbytes[cell[chosen]] if self._has_total_order else np.zeros(1)
        make_room(
            self._columns, self.cells, self.front_size, coming=sum(sizes), leaving=int(replaced.sum()),
            budget_bytes=budget_bytes, may_evict=self.over_budget == "evict", spared=set(cell[chosen].tolist()),
        )  # fmt: skip

    def _place(self, incoming: Incoming, rows: NDArray[np.intp], report: AddReport) -> None:
        cell, columns = report.cell[rows], self._columns
        is_first = ~columns.taken[cell]
        report.outcome[rows] = np.where(is_first, Outcome.NEW, Outcome.IMPROVED)
        report.delta[rows] = incoming.quality[rows] - np.where(is_first, 0.0, columns.quality[cell])
        columns.place(cell, incoming, rows, birth=self._seen + rows)

    def _offer(self, incoming: Incoming, row: int, report: AddReport) -> None:
        cell = int(report.cell[row])
        slot = self._contest.slot_for(self._columns, incoming, row, cell)
        if slot is None:
            return
        columns = self._columns
        is_first = not columns.taken[cell * self.front_size : (cell + 1) * self.front_size].any()
        report.outcome[row] = Outcome.NEW if is_first else Outcome.IMPROVED
        report.delta[row] = incoming.quality[row] - (columns.quality[slot] if columns.taken[slot] else 0.0)
        rows = np.array([row], np.intp)
        columns.place(np.array([slot], np.intp), incoming, rows, birth=self._seen + rows)

    def _credit(self, incoming: Incoming, report: AddReport) -> None:
        """A child that stays makes its parents likelier to be drawn, one that goes less. Cully and Demiris 2018."""
        for row, names in enumerate(incoming.parents or ()):
            for name in names:
                slot = self._columns.slot_of(name)
                if slot is not None:
                    self._columns.curiosity[slot] += 1.0 if report.outcome[row] > Outcome.REJECTED else -0.5
