"""Which configuration is tried next, who says so, and what is learnt of those who said so before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from toolkit.rng import numpy_generator
from toolkit.search.archive import CVTArchive
from toolkit.search.bandit import UCB1Tuned
from toolkit.search.config_space import Config, ConfigSpace
from toolkit.search.elites import AddReport, Candidate, Outcome
from toolkit.search.emitters import Emitter, Stratified
from toolkit.search.evaluation_journal import Record
from toolkit.search.leading import Leading
from toolkit.search.search_settings import Settings
from toolkit.search.trials import Evaluated, Trial
from toolkit.search.variation import sample_uniform

__all__ = ["Proposer"]

_START = "start"
_TRIES, _UNIFORM_TRIES, _WALKED = 8, 64, 10**6


class Proposer:
    """Draws trials that nobody tried, of a design first and then of emitters, by measured yield.

    Args:
        archive: Of what was found, for reading.
        emitters: Who proposes after the start; they have different names.
    """

    def __init__(
        self, space: ConfigSpace, archive: CVTArchive, settings: Settings, emitters: Sequence[Emitter]
    ) -> None:
        self.emitters = {e.name: e for e in emitters}
        self.bandit, self.leaders = UCB1Tuned(list(self.emitters)), UCB1Tuned(list(self.emitters))
        """Yields of who proposes: what came into the archive, and what advanced the front of the first objective."""
        self.next_id = 0
        self._space, self._archive, self._settings = space, archive, settings
        self._leading = Leading(archive.space, settings.objectives[:1])
        self._known: set[str] = set()
        self._rest: Iterator[Config] | None = None

    def propose(self, unrewarded: Counter[str]) -> Trial | None:
        """A trial of a configuration that was never tried; None where there is no other.

        Args:
            unrewarded: Of how many trials of each emitter nothing is known yet.
        """
        trial = self._proposed(unrewarded)
        if trial is not None:
            self._note(trial)
        return trial

    def learn(self, records: Sequence[Record], candidates: Sequence[Candidate], report: AddReport) -> None:
        """What became of trials, tried here or before a break.

        Args:
            candidates: Made of those that did not fail, in the same order.
            report: What the archive made of `candidates`.
        """
        good = [trial.id for trial, result in records if isinstance(result, Evaluated)]
        stayed = {
            number: outcome > Outcome.REJECTED and candidate.violation == 0
            for number, candidate, outcome in zip(good, candidates, report.outcome.tolist(), strict=True)
        }
        leads = dict(zip(good, self._leading.told(candidates).tolist(), strict=True))
        for trial, _ in records:
            for bandit, did in ((self.bandit, stayed), (self.leaders, leads)):
                bandit.reward(trial.emitter, float(did.get(trial.id, False) and not trial.is_fallback))
            self._note(trial)
        for emitter in self.emitters.values():
            emitter.told(candidates, self._archive)

    def _note(self, trial: Trial) -> None:
        self._known.add(trial.key)
        self.next_id = max(self.next_id, trial.id + 1)

    def _proposed(self, unrewarded: Counter[str]) -> Trial | None:
        settings, number = self._settings, self.next_id
        seed_path = (settings.seed, "trial", number)
        rng = numpy_generator(*seed_path)
        name = _START if number < settings.start else self._bandit(number).choose(unrewarded)
        emitter = self.emitters.get(name) or Stratified()
        for _ in range(_TRIES):
            config, parents = emitter.propose(self._space, self._archive, rng)
            key = self._space.key(config)
            if key not in self._known:
                return Trial(number, config, key, settings.fidelity, seed_path, name, parents)
        other = self._never_tried(rng)
        if other is None:
            return None
        return Trial(number, other, self._space.key(other), settings.fidelity, seed_path, name, is_fallback=True)

    def _bandit(self, number: int) -> UCB1Tuned:
        """The archive and the front in turn. Counted together, who fills cells would leave nothing to the front."""
        return self.leaders if self._settings.objectives and number % 2 else self.bandit

    def _never_tried(self, rng: np.random.Generator) -> Config | None:
        """Any configuration, as nobody's merit."""
        for _ in range(_UNIFORM_TRIES):
            config = sample_uniform(self._space, rng)
            if self._space.key(config) not in self._known:
                return config
        if self._space.size() > _WALKED:
            return None
        if self._rest is None:  # what it has passed is known and stays so: a walk begun anew ends at the same place
            self._rest = (self._space.repair(config)[0] for config in self._space.configurations())
        return next((config for config in self._rest if self._space.key(config) not in self._known), None)
