"""The front of all that a search found, and who advanced it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from toolkit.search.behavior import BehaviorSpace
from toolkit.search.elites import Candidate
from toolkit.search.hypervolume import non_dominated
from toolkit.search.measures import Floats

__all__ = ["Leading", "goals_of"]


class Leading:
    """Candidates that keep the limits and that no other one beats in quality and objectives.

    Args:
        objectives: Names of measures, each larger- or smaller-is-better.
    """

    def __init__(self, space: BehaviorSpace, objectives: Sequence[str]) -> None:
        self._space, self._objectives = space, tuple(objectives)
        self._goals: Floats = np.empty((0, 1 + len(self._objectives)))

    def told(self, candidates: Sequence[Candidate]) -> NDArray[np.bool_]:
        """(n,) whether each of `candidates`, all at once, is on the front and stands where nobody stood."""
        feasible = np.array([candidate.violation == 0 for candidate in candidates], np.bool_)
        goals = goals_of(self._space, self._objectives, [c for c in candidates if c.violation == 0])
        together = np.concatenate([self._goals, goals])
        first = np.unique(together, axis=0, return_index=True)[1]
        leads = non_dominated(together) & np.isin(np.arange(len(together)), first)
        found = np.zeros(len(candidates), np.bool_)
        found[feasible] = leads[len(self._goals) :]
        self._goals = together[leads]
        return found


def goals_of(space: BehaviorSpace, objectives: Sequence[str], candidates: Sequence[Candidate]) -> Floats:
    """(n, 1 + objectives) quality and objectives, larger is better, each on the scale on which its steps are even."""
    columns = [[float(candidate.quality) for candidate in candidates]]
    for k, measure in enumerate(space.measures):
        if measure.name in objectives:
            raw: Floats = np.array([candidate.measures[k] for candidate in candidates], np.float64)
            place = measure.stretch(np.clip(raw, measure.low, measure.high))
            columns.append((place if measure.larger_is == "better" else -place).tolist())
    return np.array(columns, np.float64).T.reshape(len(candidates), len(columns))
