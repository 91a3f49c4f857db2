"""Who stays in a cell where no single number decides: fronts, and qualities compared on the same examples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from toolkit.errors import DescriptorError
from toolkit.search.behavior import BehaviorSpace
from toolkit.search.columns import Columns
from toolkit.search.fronts import kept_of_front
from toolkit.search.genomes import genome_id
from toolkit.search.incoming import Incoming
from toolkit.search.measures import Floats
from toolkit.search.preference import paired_is_better

__all__ = ["Contest"]


class Contest:
    """Candidates against the elites of their cells, one by one.

    Args:
        front_size: Elites a cell may hold; 1 compares on examples, more keep a front.
        objectives: Names of measures that say what is better, for fronts.
        quality_range: The worst and the best quality that count.
        z: Standard errors by which a quality must be better on the same examples.

    Raises:
        DescriptorError: an objective does not say what is better, or is no measure.
    """

    def __init__(
        self, space: BehaviorSpace, *, front_size: int, objectives: Sequence[str], quality_range: tuple[float, float],
        z: float,
    ) -> None:  # fmt: skip
        self._front_size, self._z = front_size, z
        self._quality_min, self._quality_max = quality_range
        self._senses = _senses(space, objectives)

    def slot_for(self, columns: Columns, incoming: Incoming, row: int, cell: int) -> int | None:
        """Where a row goes, of the slots of its cell; None where it goes nowhere. Who loses its place is cleared."""
        decide = self._slot_in_front if self._front_size > 1 else self._slot_if_better
        return decide(columns, incoming, row, cell)

    def _slot_if_better(self, columns: Columns, incoming: Incoming, row: int, cell: int) -> int | None:
        new = None if incoming.examples is None else incoming.examples[row]
        old = columns.examples_of(cell)
        if new is None or (old is not None and len(new) != len(old)):
            raise DescriptorError(
                "the policy 'paired' compares qualities on the same examples", hint="give `examples` (v,) with each"
            )
        if old is None or incoming.violation[row] < columns.violation[cell]:
            return cell
        is_even = incoming.violation[row] == columns.violation[cell]
        return cell if is_even and paired_is_better(np.asarray(new), old, self._z) else None

    def _slot_in_front(self, columns: Columns, incoming: Incoming, row: int, cell: int) -> int | None:
        """A place in the cell's front, if the row is one of those that stay; who does not leaves its own."""
        cell_slots = range(cell * self._front_size, (cell + 1) * self._front_size)
        slots = [s for s in cell_slots if columns.taken[s]]
        names = [*(columns.id_of(s) for s in slots), genome_id(incoming.genomes[row])]
        if names[-1] in names[:-1]:
            return None
        violation = np.append(columns.violation[slots], incoming.violation[row])
        goals = [self._goals(float(columns.score[s]), columns.unit[s]) for s in slots]
        goals.append(self._goals(float(incoming.score[row]), incoming.unit[row]))
        kept = kept_of_front(np.array(goals), violation == violation.min(), names, self._front_size)
        if len(slots) not in kept:
            return None
        for position, slot in enumerate(slots):
            if position not in kept:
                columns.clear(slot)
        return next(s for s in cell_slots if not columns.taken[s])

    def _goals(self, score: float, unit: Floats) -> list[float]:
        """Quality and objectives, larger is better, on scales of about 1."""
        share = (score - self._quality_min) / (self._quality_max - self._quality_min)
        return [share, *(float(unit[k]) if is_better else 1 - float(unit[k]) for k, is_better in self._senses)]


def _senses(space: BehaviorSpace, objectives: Sequence[str]) -> list[tuple[int, bool]]:
    """(column, whether larger is better) of each objective."""
    known = {m.name: (k, m.larger_is == "better") for k, m in enumerate(space.measures) if m.larger_is != "neutral"}
    if unknown := [name for name in objectives if name not in known]:
        raise DescriptorError(
            f"{unknown[0]!r} is no objective", hint=f"measures that say what is better: {', '.join(known) or 'none'}"
        )
    return [known[name] for name in objectives]
