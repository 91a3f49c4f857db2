"""A search: who proposes, what was tried, and how it goes on after a break.

With `deterministic` trials come in generations. What generation g + 1 proposes follows from the seed and from all that
generations 0 to g found, whoever evaluated it and in whatever order; so a resumed search is the one that was never
broken off. Without it a trial is proposed from what is known at that moment, and no worker waits for another.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.digests import canonical_digest
from toolkit.errors import ArchiveFormatError, SlimeError, UsageError
from toolkit.rng import numpy_generator
from toolkit.search.archive import CVTArchive
from toolkit.search.bandit import UCB1Tuned
from toolkit.search.config_space import Config, ConfigSpace
from toolkit.search.elites import AddReport, Candidate, Outcome
from toolkit.search.emitters import Emitter, Stratified, standard
from toolkit.search.evaluation_journal import EvaluationJournal, Record
from toolkit.search.executors import Executor, Here
from toolkit.search.leading import Leading
from toolkit.search.locks import locked
from toolkit.search.trials import Budget, Evaluate, Evaluated, Result, Trial, checked
from toolkit.search.variation import sample_uniform

if TYPE_CHECKING:
    from toolkit.search.counting import SearchCounts

__all__ = ["SearchRunner", "SearchStopped", "Settings"]

_START = "start"
_TRIES, _UNIFORM_TRIES, _WALKED = 8, 64, 10**6
_STREAK = 5


class SearchStopped(SlimeError):
    """Evaluations fail, one after the other, in the same way."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides how a search goes, beside its space and its archive.

    Args:
        seed: Of all that is drawn.
        generation: Trials between two barriers, where `deterministic`.
        start: Trials by design before emitters are chosen.
        deterministic: Whether the same seed is to propose the same, however long evaluations take.
        objectives: Measures for which a front is kept beside quality, each larger- or smaller-is-better.
        limits: (low, high) by measure; by how much a candidate breaks them, relatively, is its violation.
        fidelity: Handed to the evaluator with each trial.
        top_fidelity: Up to which a trial climbs, one by one, while the upper bound of its quality would enter the
            archive as it was before its generation; None climbs nowhere.
        context: What else results depend on, such as digests of the target and the data; for the cache.
        timeout_s: After so long without a result a trial is issued again; None is never.

    Raises:
        UsageError: no trial a generation, no time, or limits that leave nothing.
    """

    seed: int
    generation: int = 32
    start: int = 64
    deterministic: bool = True
    objectives: tuple[str, ...] = ()
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    fidelity: int = 0
    top_fidelity: int | None = None
    context: str = ""
    timeout_s: float | None = None

    def __post_init__(self) -> None:
        if self.generation < 1 or self.start < 0 or (self.timeout_s is not None and self.timeout_s <= 0):
            raise UsageError(
                f"no search of {self.generation} trials a generation after {self.start}, again after {self.timeout_s}",
                hint="1 trial a generation or more, a start from 0, a timeout above 0",
            )
        for name, (low, high) in self.limits.items():
            if not low <= high:
                raise UsageError(f"{name} cannot lie between {low} and {high}", hint="the lower limit first")


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
        _check_names(archive, settings)
        self.space, self.archive, self.settings = space, archive, settings
        self.emitters = {e.name: e for e in (standard(settings.objectives) if emitters is None else emitters)}
        self.bandit, self.leaders = UCB1Tuned(list(self.emitters)), UCB1Tuned(list(self.emitters))
        """Yields of who proposes: what came into the archive, and what advanced the front of the first objective."""
        self._leading = Leading(archive.space, settings.objectives[:1])
        self.finished, self.evaluated, self.hits, self.failures = 0, 0, 0, 0
        self._cache = {} if cache is None else cache
        self._context = canonical_digest(settings.context)
        self._clock, self._counts = clock, counts
        self._journal: EvaluationJournal | None = None
        self._next_id = 0
        self._known: set[str] = set()
        self._unfinished: dict[int, Trial] = {}
        """Proposed, and not yet in the archive."""
        self._queue: deque[Trial] = deque()
        self._issued: dict[int, float] = {}
        self._group: dict[int, Record] = {}
        self._recalled: dict[str, Record] = {}
        self._cap: int | None = None
        self._is_closing = False
        self._streak: tuple[str, int] = ("", 0)
        self._rest: Iterator[Config] | None = None

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
            _same_search(folder / "search.json", runner._description())
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
            found = self._found_before(trial)
            if found is not None:
                self.hits += 1
                self._streak = ("", 0)  # else known results between failures, which are not kept, would not count
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
        if not 0 <= trial_id < self._next_id:
            raise SlimeError(f"no trial {trial_id} was asked for", hint="tell the id of a trial that `ask` gave")
        if trial_id not in self._issued:
            return None
        outcome = checked(result, self.archive.space.names)
        self._count_failures(outcome)
        trial = self._unfinished[trial_id]
        since = self._issued.pop(trial_id)
        self.evaluated += 1
        if self._counts is not None:
            self._counts.told(trial, outcome, self._clock() - since)
        if isinstance(outcome, Evaluated):
            self._cache[self._content(trial)] = outcome
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
            trial = self._proposed()
            if trial is None:
                break
            self._next_id += 1
            self._known.add(trial.key)
            self._unfinished[trial.id] = trial
            self._queue.append(trial)
        return bool(self._queue)

    def _proposed(self) -> Trial | None:
        """A configuration that was never tried; None where there is no other."""
        number, seed_path = self._next_id, (self.settings.seed, "trial", self._next_id)
        rng = numpy_generator(*seed_path)
        name = _START if number < self.settings.start else self._bandit(number).choose(self._unrewarded())
        emitter = self.emitters.get(name) or Stratified()
        for _ in range(_TRIES):
            config, parents = emitter.propose(self.space, self.archive, rng)
            key = self.space.key(config)
            if key not in self._known:
                return Trial(number, config, key, self.settings.fidelity, seed_path, name, parents)
        other = self._never_tried(rng)
        if other is None:
            return None
        key = self.space.key(other)
        return Trial(number, other, key, self.settings.fidelity, seed_path, name, is_fallback=True)

    def _bandit(self, number: int) -> UCB1Tuned:
        """The archive and the front in turn. Counted together, who fills cells would leave nothing to the front."""
        return self.leaders if self.settings.objectives and number % 2 else self.bandit

    def _never_tried(self, rng: np.random.Generator) -> Config | None:
        """Any configuration, as nobody's merit."""
        for _ in range(_UNIFORM_TRIES):
            config = sample_uniform(self.space, rng)
            if self.space.key(config) not in self._known:
                return config
        if self.space.size() > _WALKED:
            return None
        if self._rest is None:  # what it has passed is known and stays so: a walk begun anew ends at the same place
            self._rest = (self.space.repair(config)[0] for config in self.space.configurations())
        return next((config for config in self._rest if self.space.key(config) not in self._known), None)

    def _unrewarded(self) -> Counter[str]:
        return Counter(trial.emitter for trial in self._unfinished.values())

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

    def _found_before(self, trial: Trial) -> Record | None:
        """What came of `trial`; before a break perhaps at a higher fidelity than where it starts."""
        recalled = self._recalled.pop(trial.key, None)
        if recalled is not None:
            return Record(replace(trial, fidelity=recalled.trial.fidelity), recalled.result)
        found = self._cache.get(self._content(trial))
        return None if found is None else Record(trial, found)

    def _climbs(self, trial: Trial, outcome: Result) -> bool:
        """Put `trial` into the queue again, one fidelity higher, where that may bring it into the archive."""
        top = self.settings.top_fidelity
        if top is None or trial.fidelity >= top or not isinstance(outcome, Evaluated) or outcome.upper is None:
            return False
        if not self._may_enter(outcome, outcome.upper):
            return False
        self._unfinished[trial.id] = replace(trial, fidelity=trial.fidelity + 1)
        self._queue.appendleft(self._unfinished[trial.id])
        return True

    def _may_enter(self, result: Evaluated, quality: float) -> bool:
        """Whether the archive as it is would take `result` if it were of `quality`."""
        measures = np.array([[result.measures[name] for name in self.archive.space.names]])
        cell = int(self.archive.cell_of(measures)[0])
        elite = self.archive.get(cell) if cell >= 0 else None
        if elite is None:
            return cell >= 0
        violation = result.violation + _broken(self.settings.limits, result.measures)
        return violation < elite.violation or (violation == elite.violation and quality >= elite.quality)

    def _content(self, trial: Trial) -> str:
        """All that a result depends on."""
        return f"{trial.key}-{trial.fidelity}-{self._context}"

    def _count_failures(self, outcome: Result) -> None:
        if isinstance(outcome, Evaluated):
            self._streak = ("", 0)
            return
        kind, count = self._streak
        self._streak = (outcome.kind, count + 1 if kind == outcome.kind else 1)
        if self._streak[1] >= _STREAK:
            last = outcome.text.strip().splitlines()[-1:] or [outcome.kind]
            raise SearchStopped(
                f"{_STREAK} evaluations in a row failed as {outcome.kind}: {last[0]}",
                hint="mend what they have in common and resume: what was finished is kept",
            )

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
        good = [record for record in records if isinstance(record.result, Evaluated)]
        candidates = [self._candidate(record) for record in good]
        report = self.archive.add(candidates)
        stayed = {
            record.trial.id: outcome > Outcome.REJECTED and candidate.violation == 0
            for record, candidate, outcome in zip(good, candidates, report.outcome.tolist(), strict=True)
        }
        leads = dict(zip((record.trial.id for record in good), self._leading.told(candidates).tolist(), strict=True))
        for trial, _ in records:
            for bandit, did in ((self.bandit, stayed), (self.leaders, leads)):
                bandit.reward(trial.emitter, float(did.get(trial.id, False) and not trial.is_fallback))
            self._known.add(trial.key)
            self._unfinished.pop(trial.id, None)
            self._next_id = max(self._next_id, trial.id + 1)
        for emitter in self.emitters.values():
            emitter.told(candidates, self.archive)
        self.finished += len(records)
        self.failures += len(records) - len(good)
        return report

    def _candidate(self, record: Record) -> Candidate:
        trial, result = record
        assert isinstance(result, Evaluated)
        names = self.archive.space.names
        measures = np.array([result.measures[name] for name in names])
        violation = result.violation + _broken(self.settings.limits, result.measures)
        meta = {"trial": trial.id, "emitter": trial.emitter, "fidelity": trial.fidelity, **result.meta}
        return Candidate(dict(trial.config), measures, result.quality, result.n, result.m2, violation,
                         meta=meta, parents=trial.parents)  # fmt: skip

    # ---- resuming

    def _resume(self, journal: EvaluationJournal) -> None:
        """Learn again what was learnt. Failures in the generation under way are tried again."""
        journal.forget_torn_ends()
        for records in journal.groups():
            self._absorb(records)
        waiting = [record for record in journal.waiting() if isinstance(record.result, Evaluated)]
        self._recalled = {record.trial.key: record for record in waiting}
        self._journal = journal

    def _description(self) -> dict[str, Any]:
        """All that a search must have in common with the one it resumes, as JSON."""
        settings = {name: value for name, value in asdict(self.settings).items() if name != "timeout_s"}
        archive = {"space": self.archive.space.digest, "centroids": self.archive.cells.digest} | self.archive.rules
        document = {"format": "edge-toolkit search 1", "space": self.space.describe(), "archive": archive,
                    "emitters": list(self.emitters), **settings}  # fmt: skip
        plain: dict[str, Any] = json.loads(json.dumps(document))
        return plain


def _check_names(archive: CVTArchive, settings: Settings) -> None:
    senses = {m.name: m.larger_is for m in archive.space.measures}
    if unknown := sorted(set(settings.limits) - set(senses)):
        raise UsageError(f"a limit on {unknown[0]!r}, which is no measure", hint=f"measures: {', '.join(senses)}")
    known = [name for name, sense in senses.items() if sense != "neutral"]
    if unknown := sorted(set(settings.objectives) - set(known)):
        raise UsageError(
            f"{unknown[0]!r} is no objective", hint=f"measures that say what is better: {', '.join(known)}"
        )
    if archive.seen:
        raise UsageError("a search begins with an empty archive", hint="give archive.empty(), and merge afterwards")


def _broken(limits: Mapping[str, tuple[float, float]], measures: Mapping[str, float]) -> float:
    """By how much `measures` break `limits`, as shares of these, summed; 0 where they keep all."""
    total = 0.0
    for name, (low, high) in limits.items():
        value = measures[name]
        beyond, limit = (value - high, high) if value > high else (low - value, low)
        if beyond > 0:
            total += beyond / (abs(limit) or 1.0)
    return total


def _same_search(path: Path, description: Mapping[str, Any]) -> None:
    """Write what a search is, or find that the one in this folder is the same.

    Raises:
        ArchiveFormatError: it is another one.
    """
    if not path.exists():
        beside = path.with_suffix(".new")
        with beside.open("w", encoding="utf-8") as file:
            file.write(json.dumps(description, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        return
    try:
        there = json.loads(path.read_text("utf-8"))
        different = [name for name in description if there.get(name) != description[name]]
    except (ValueError, AttributeError) as error:
        raise ArchiveFormatError(f"{path} cannot be read: {error}", hint="take the search from a copy") from error
    if different:
        raise ArchiveFormatError(
            f"{path.parent} holds another search: its {different[0]} differs",
            hint="resume it as it began, or name a new folder",
        )
