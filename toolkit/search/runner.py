"""A search: what is tried, what came of it, and how it goes on after a break.

With `deterministic` trials come in generations. What generation g + 1 proposes follows from the seed and from all that
generations 0 to g found, whoever evaluated it and in whatever order; so a resumed search is the one that was never
broken off. Without it a trial is proposed from what is known at that moment, and no worker waits for another.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.errors import SlimeError, UsageError
from toolkit.search.archive import CVTArchive
from toolkit.search.bandit import UCB1Tuned
from toolkit.search.config_space import ConfigSpace
from toolkit.search.elites import AddReport
from toolkit.search.emitters import Emitter, standard
from toolkit.search.entering import candidate_of, may_enter
from toolkit.search.evaluation_journal import EvaluationJournal, Record
from toolkit.search.executors import Executor, Here
from toolkit.search.failing import FailureStreak, SearchStopped
from toolkit.search.known_results import KnownResults
from toolkit.search.locks import locked
from toolkit.search.proposing import Proposer
from toolkit.search.same_search import check_same, description
from toolkit.search.search_settings import Settings, check_names
from toolkit.search.trials import Budget, Evaluate, Evaluated, Result, Trial, checked

if TYPE_CHECKING:
    from toolkit.search.counting import SearchCounts

__all__ = ["SearchRunner", "SearchStopped", "Settings"]


class SearchRunner:
    """Proposes trials, takes results, and fills the archive.

    Use `opened` for a search that survives this process.

    Args:
        archive: Empty; filled by the search.
        emitters: Who proposes after the start; `emitters.standard` if None.
        cache: Results by content; may be shared by searches.
        counts: What is told of all that happens; nothing is if None.
        clock: Seconds, for timeouts and budgets alone.

    Raises:
        UsageError: a limit or an objective is on no measure of the archive, or the archive is not empty.
    """

    def __init__(
        self, space: ConfigSpace, archive: CVTArchive, settings: Settings, *, emitters: Sequence[Emitter] | None = None,
        cache: MutableMapping[str, Evaluated] | None = None, counts: SearchCounts | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        check_names(archive.space, settings)
        if archive.seen:
            raise UsageError("a search begins with an empty archive", hint="give archive.empty(), and merge afterwards")
        self.space, self.archive, self.settings = space, archive, settings
        self._proposer = Proposer(
            space, archive, settings, standard(settings.objectives) if emitters is None else emitters
        )
        self.finished, self.evaluated, self.hits, self.failures = 0, 0, 0, 0
        self._known = KnownResults({} if cache is None else cache, settings.context)
        self._clock, self._counts = clock, counts
        self._journal: EvaluationJournal | None = None
        self._unfinished: dict[int, Trial] = {}
        """Proposed, and not yet in the archive."""
        self._queue: deque[Trial] = deque()
        self._issued: dict[int, float] = {}
        self._group: dict[int, Record] = {}
        self._cap: int | None = None
        self._is_closing = False
        self._streak = FailureStreak()

    @classmethod
    @contextmanager
    def opened(
        cls, folder: Path, space: ConfigSpace, archive: CVTArchive, settings: Settings, **options: Any
    ) -> Iterator[SearchRunner]:
        """A search in `folder`: begun there, or resumed with all that was finished.

        Raises:
            ArchiveFormatError: there is a search with other settings, or a byte of its journal was changed.
            SlimeError: another process runs it.
        """
        runner = cls(space, archive, settings, **options)
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            check_same(folder, description(space, archive, settings, list(runner._proposer.emitters)))
            runner._resume(EvaluationJournal(folder))
            yield runner

    # ---- asking and telling

    def ask(self, n: int) -> list[Trial]:
        """At most `n` trials to be evaluated: lost ones first, then new ones.

        None at all while the generation under way has been handed out, or when nothing is left to try.
        """
        trials = self._lost(n)
        while len(trials) < n and (self._queue or self._propose()):
            trial = self._queue.popleft()
            found = self._known.find(trial)
            if found is not None:
                self.hits += 1
                self._streak.broken()  # else known results between failures, which are not kept, would not count
                if self._counts is not None:
                    self._counts.found(trial)
                if not self._climbs(*found):
                    self._take(found, is_new=False)
                continue
            self._issued[trial.id] = self._clock()
            trials.append(trial)
        return trials

    def tell(self, trial_id: int, result: object) -> AddReport | None:
        """What came of a trial, in any order. What the archive made of its group, when the group is complete.

        The second answer for one trial, that was lost and found, changes nothing.

        Raises:
            SlimeError: this trial was never asked for.
            SearchStopped: so many evaluations in a row failed in one way; this one is not counted as tried.
            BudgetExceeded: the disk or the archive is full.
        """
        if not 0 <= trial_id < self._proposer.next_id:
            raise SlimeError(f"no trial {trial_id} was asked for", hint="tell the id of a trial that `ask` gave")
        if trial_id not in self._issued:
            return None
        outcome = checked(result, self.archive.space.names)
        self._streak.told(outcome)
        trial = self._unfinished[trial_id]
        since = self._issued.pop(trial_id)
        self.evaluated += 1
        if self._counts is not None:
            self._counts.told(trial, outcome, self._clock() - since)
        if isinstance(outcome, Evaluated):
            self._known.keep(trial, outcome)
        return None if self._climbs(trial, outcome) else self._take(Record(trial, outcome), is_new=True)

    def run(self, evaluate: Evaluate, budget: Budget, executor: Executor | None = None) -> CVTArchive:
        """Search until the budget is spent or nothing is left to try; what an earlier run had finished counts.

        Two runs of a deterministic search that differ in where they stop are equal if each stops after a generation.

        Raises:
            SearchStopped: see `tell`.
        """
        pool: Executor = Here() if executor is None else executor
        end = None if budget.seconds is None else self._clock() + budget.seconds
        self._cap = budget.evaluations
        self._take_back()
        busy = 0
        while True:
            self._is_closing = end is not None and self._clock() >= end
            for trial in self.ask(pool.slots - busy):
                pool.submit(evaluate, trial)
                busy += 1
            if not busy:
                self._cap, self._is_closing = None, False
                return self.archive
            for trial_id, result in pool.wait(self.settings.timeout_s):
                busy -= 1
                self.tell(trial_id, result)

    @property
    def bandit(self) -> UCB1Tuned:
        """Yields of who proposes, in what came into the archive."""
        return self._proposer.bandit

    @property
    def leaders(self) -> UCB1Tuned:
        """Yields of who proposes, in what advanced the front of the first objective."""
        return self._proposer.leaders

    @property
    def in_flight(self) -> int:
        """Trials handed out whose results are not known."""
        return len(self._issued)

    # ---- proposing

    def _propose(self) -> bool:
        """Put the trials of the next generation, or the next trial, into the queue; whether there is one."""
        is_deterministic = self.settings.deterministic
        if self._is_closing or (is_deterministic and self._unfinished):
            return False
        left = np.inf if self._cap is None else self._cap - self.finished - len(self._unfinished)
        for _ in range(int(min(self.settings.generation if is_deterministic else 1, left))):
            trial = self._proposer.propose(Counter(waiting.emitter for waiting in self._unfinished.values()))
            if trial is None:
                break
            self._unfinished[trial.id] = trial
            self._queue.append(trial)
        return bool(self._queue)

    def _lost(self, n: int) -> list[Trial]:
        """At most `n` trials without a result for too long; their time begins again."""
        if self.settings.timeout_s is None:
            return []
        now = self._clock()
        late = [i for i, since in self._issued.items() if now - since >= self.settings.timeout_s][:n]
        self._issued |= dict.fromkeys(late, now)
        return [self._unfinished[i] for i in late]

    def _take_back(self) -> None:
        """What a run that was interrupted had handed out goes back to the front of the queue."""
        self._queue.extendleft(self._unfinished[i] for i in sorted(self._issued, reverse=True))
        self._issued.clear()

    # ---- taking results

    def _climbs(self, trial: Trial, outcome: Result) -> bool:
        """Put `trial` into the queue again, one fidelity higher, where that may bring it into the archive."""
        top = self.settings.top_fidelity
        if top is None or trial.fidelity >= top or not isinstance(outcome, Evaluated) or outcome.upper is None:
            return False
        if not may_enter(outcome, outcome.upper, self.archive, self.settings.limits):
            return False
        self._unfinished[trial.id] = replace(trial, fidelity=trial.fidelity + 1)
        self._queue.appendleft(self._unfinished[trial.id])
        return True

    def _take(self, record: Record, *, is_new: bool) -> AddReport | None:
        """Keep a result until its group is complete."""
        if not self.settings.deterministic:
            return self._close_group([record])
        if is_new and self._journal is not None:
            self._journal.keep(record)
        self._group[record.trial.id] = record
        if len(self._group) < len(self._unfinished):
            return None
        records = [self._group[i] for i in sorted(self._group)]
        self._group.clear()
        return self._close_group(records)

    def _close_group(self, records: Sequence[Record]) -> AddReport:
        if self._journal is not None:
            self._journal.close_group(records)
        report = self._absorb(records)
        if self._counts is not None:
            self._counts.taken(records, report)
        return report

    def _absorb(self, records: Sequence[Record]) -> AddReport:
        """Let the archive and all who propose learn of a group; nothing else changes what they know."""
        candidates = [
            candidate_of(trial, result, self.archive, self.settings.limits)
            for trial, result in records
            if isinstance(result, Evaluated)
        ]
        report = self.archive.add(candidates)
        self._proposer.learn(records, candidates, report)
        for trial, _ in records:
            self._unfinished.pop(trial.id, None)
        self.finished += len(records)
        self.failures += len(records) - len(candidates)
        return report

    # ---- resuming

    def _resume(self, journal: EvaluationJournal) -> None:
        """Learn again what was learnt."""
        journal.forget_torn_ends()
        for records in journal.groups():
            self._absorb(records)
        self._known.recall(journal.waiting())
        self._journal = journal
