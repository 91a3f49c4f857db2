"""The search of deployments: one archive a target, one quality shared by all, and what was found as an atlas."""

from __future__ import annotations

import errno
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from targets.stack import Stack
from targets.target import digest_of, load_target
from toolkit.cache import SEARCH, cache_folder, fingerprint
from toolkit.errors import BudgetExceeded, InvalidInput, UsageError
from toolkit.rng import numpy_generator
from toolkit.search.archive import CVTArchive
from toolkit.search.atlas.page import write_page
from toolkit.search.config_space import Config, ConfigSpace
from toolkit.search.counting import SearchCounts
from toolkit.search.deployment.atlas_file import write_atlas
from toolkit.search.deployment.cells import archive_for
from toolkit.search.deployment.describing import Point, document, model_and_data, points_of
from toolkit.search.deployment.earlier import beside, check_goes_into, earlier_atlas
from toolkit.search.deployment.evaluator import Evaluator
from toolkit.search.deployment.guided import guides
from toolkit.search.deployment.kept import Kept, KeptResults
from toolkit.search.deployment.prices import MEASURES
from toolkit.search.deployment.problem import Problem
from toolkit.search.deployment.quality import LEVELS
from toolkit.search.deployment.space import deployment_space, stacks_of
from toolkit.search.deployment.standing import Standing, standing
from toolkit.search.deployment.structures import Progress, silent
from toolkit.search.deployment.tables import Tables
from toolkit.search.emitters import Emitter, Front, Stratified
from toolkit.search.executors import Executor, Here, Threads
from toolkit.search.folder import save
from toolkit.search.locks import LOCK, locked
from toolkit.search.runner import SearchRunner, Settings
from toolkit.search.trials import Budget, Evaluate, Trial
from toolkit.search.variation import sample_stratified

if TYPE_CHECKING:
    from toolkit.observability import MetricsCollector

__all__ = ["BASELINES", "Found", "Ground", "Wanted", "ground_of", "search_deployments"]

_DESIGN = 1000
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)

BASELINES: Mapping[str, Callable[[tuple[str, ...]], list[Emitter]]] = {
    "stratified random": lambda objectives: [Stratified()],
    "NSGA-II": lambda objectives: [Front(objectives)],
}
"""What a search is held against: each alone, with as many evaluations."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is searched for, and how long.

    There is no budget in joules: what evaluating takes on this machine is not measured, and the energy that is
    predicted is that of the device, which evaluates nothing.

    Args:
        targets: Names of devices.
        stack: Of the one target, where all others are not to be looked at.
        evaluations: Candidates for each target.
        seconds: For each target; a generation that has begun is finished.
        limits: The most that a measure may be, by name.
        epochs: Of a short training, of what may be the best of its kind after it; 0 trains nothing.
        baselines: Whether `BASELINES` are run as well, with as many evaluations as were made.
        kept: Folder of what was evaluated, by content; the toolkit's cache where None.
    """

    targets: Sequence[str]
    stack: str | None = None
    evaluations: int | None = None
    seconds: float | None = None
    limits: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    epochs: int = 0
    baselines: bool = True
    kept: Path | None = None

    def __post_init__(self) -> None:
        if not self.targets:
            raise UsageError("no target was named", hint="say --target NAME; `toolkit targets` lists them")
        if len(set(self.targets)) < len(self.targets):
            raise UsageError("a target is named twice", hint="name each once: one search a target")
        if self.stack and len(self.targets) > 1:
            raise UsageError("one stack for several targets", hint="name one target, or leave --stack out")
        if self.epochs < 0:
            raise UsageError(f"no training of {self.epochs} epochs", hint="0 trains nothing; 3 to 10 are a short one")
        self.budget  # noqa: B018 - says what is wrong with it before anything is loaded

    @property
    def budget(self) -> Budget:
        """When the search of one target ends."""
        return Budget(self.evaluations, self.seconds)


@dataclass(frozen=True)
class Ground:
    """Where one target's search takes place.

    Args:
        priced_per_minute: Candidates that were drawn, repaired and priced from tables, on this machine now.
    """

    evaluator: Evaluator
    stacks: Sequence[Stack]
    space: ConfigSpace
    tables: Tables
    archive: CVTArchive
    priced_per_minute: float

    @property
    def objectives(self) -> tuple[str, ...]:
        """Axes that say what is better."""
        return tuple(m.name for m in self.archive.space.measures if m.larger_is != "neutral")

    def settings(self, seed: int) -> Settings:
        """Of every search on this ground."""
        opened = self.evaluator.workshop.problem
        lowest, highest = self.evaluator.levels
        context = {
            "version of passes, targets or their libraries": fingerprint(),
            "model": opened.program.digest,
            "data": opened.parts.digest,
            "seed": opened.problem.seed,
            "ladder of fidelities": list(LEVELS.items()),
            "fine-tuning": self.evaluator.epochs,
            "choice of stacks": [digest_of(stack) for stack in self.stacks],
            "limit": dict(sorted(self.evaluator.limits.items())),
        }
        return Settings(seed=seed, objectives=self.objectives, fidelity=lowest, top_fidelity=highest,
                        context=json.dumps(context))  # fmt: skip

    def emitters(self) -> list[Emitter]:
        """All who propose. Others raise neither score (`python -m toolkit.bench.search --ablation`)."""
        return [Front(self.objectives), *guides(self.tables, self.evaluator.limits, self.objectives)]


@dataclass(frozen=True)
class Found:
    """Of one target.

    Args:
        evaluated: Evaluations that were made now, at any fidelity; `hits` were known, `failures` came to nothing.
        table_error: Largest error of tabulated prices, by measure, on what is in the archive; see `Tables.error`.
        standing: Of the search and of each baseline, by name.
        emitters: By name, how many candidates each proposed after the start, and the share of them that stayed.
    """

    target: str
    ground: Ground
    archive: CVTArchive
    evaluated: int
    hits: int
    failures: int
    finished: int
    points: Sequence[Point]
    table_error: Mapping[str, float]
    standing: Mapping[str, Standing]
    emitters: Mapping[str, tuple[int, float]]


def ground_of(problem: Problem, target: str, wanted: Wanted, progress: Progress = silent) -> Ground:
    """What there is to choose on `target`, and the empty archive for it."""

    def report(step: str, done: float) -> None:
        progress(f"{target}: {step}", done)

    report("what there is to choose", 0.0)
    kept = wanted.kept or cache_folder() / SEARCH
    evaluator = Evaluator(problem, target, limits=wanted.limits, epochs=wanted.epochs, folder=kept)
    stacks = stacks_of(load_target(target), evaluator.workshop, wanted.stack)
    space = deployment_space(evaluator.workshop, stacks, report)
    tables = Tables(evaluator.workshop, stacks, report)
    tables.measures(_design(space, wanted.seed))  # makes those that there are
    start = time.perf_counter()
    design = _design(space, wanted.seed)
    measures = tables.measures(design)
    rate = 60 * _DESIGN / (time.perf_counter() - start)
    archive = archive_for(measures, seed=wanted.seed)
    return Ground(evaluator, stacks, space, tables, archive, rate)


def search_deployments(
    problem: Problem, wanted: Wanted, folder: Path, *, executor: Executor | None = None,
    metrics: MetricsCollector | None = None, progress: Progress = silent,
) -> list[Found]:  # fmt: skip
    """Search every target in turn, and write the atlas and its page. A folder with this search in it is resumed, and
    an atlas of the same model and samples keeps its other targets.

    Args:
        metrics: Where the search of each target is counted, its baselines aside; see `SearchCounts`.

    Raises:
        ToolkitError: with what happened and what to do next; what was finished is kept.
    """
    for target in wanted.targets:
        load_target(target).stack(wanted.stack)
    pool = Here() if executor is None else executor
    if not (isinstance(pool, Here) or problem.is_portable or _shares_memory(pool)):
        raise UsageError(
            "a model or data in memory cannot be sent to other processes",
            hint="name them by text, such as module:factory, or search with threads",
        )
    found = []
    with _written_to(folder):
        earlier = earlier_atlas(folder)
        for target in wanted.targets:
            counts = None if metrics is None else SearchCounts(metrics, target=target)
            ground = ground_of(problem, target, wanted, progress)
            common = {**model_and_data(ground.evaluator), "seed": wanted.seed, "limits": dict(wanted.limits)}
            check_goes_into(earlier, common, folder)
            found.append(_searched(ground, target, wanted, folder, pool, counts, progress))
        write_atlas(folder, beside(document(problem, wanted.seed, wanted.limits, found), earlier))
        write_page(folder)
    return found


@contextmanager
def _written_to(folder: Path) -> Iterator[None]:
    """Hold `folder` for the one search that writes its atlas. A new one into which nothing came is taken away again.

    Raises:
        InvalidInput: it cannot be made.
        SlimeError: another process holds it.
        BudgetExceeded: there is no room in it; what was finished is kept.
    """
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(f"cannot make the folder {folder}: {error.strerror}", hint="name another one") from error
    try:
        with locked(folder):
            try:
                yield
            finally:
                if is_new and [path.name for path in folder.iterdir()] == [LOCK]:
                    shutil.rmtree(folder)
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        raise BudgetExceeded(
            f"{folder} cannot be written: {error.strerror}",
            hint="make room, or name another folder; the same command goes on from what was finished",
        ) from error


def _searched(
    ground: Ground, target: str, wanted: Wanted, folder: Path, pool: Executor, counts: SearchCounts | None,
    progress: Progress,
) -> Found:  # fmt: skip
    cache = KeptResults(Kept(wanted.kept or cache_folder() / SEARCH))
    settings = ground.settings(wanted.seed)
    with SearchRunner.opened(
        folder / target, ground.space, ground.archive, settings, emitters=ground.emitters(), cache=cache, counts=counts
    ) as runner:
        watched = _Watched(pool, lambda done: progress(target, done / (wanted.evaluations or max(done, 1))))
        archive = runner.run(ground.evaluator, wanted.budget, watched)
        _save(archive, folder / target / "archive")
    if counts is not None:
        counts.priced(ground.tables.priced)
    stand = {"this search": standing(archive)}
    if wanted.baselines and runner.finished:
        for name, emitters in BASELINES.items():
            progress(f"{target}: {name}, to compare", 0.0)
            other = SearchRunner(ground.space, ground.archive.empty(), settings, emitters=emitters(ground.objectives),
                                 cache=cache)  # fmt: skip
            stand[name] = standing(other.run(ground.evaluator, Budget(runner.finished), pool))
    progress(f"{target}: measuring anew what was found", 1.0)
    points = points_of(ground.evaluator, archive)
    yields = {name: (trials, runner.bandit.mean(name)) for name, trials in runner.bandit.pulls.items() if trials}
    return Found(target, ground, archive, runner.evaluated, runner.hits, runner.failures, runner.finished, points,
                 _table_error(ground, archive), stand, yields)  # fmt: skip


def _table_error(ground: Ground, archive: CVTArchive) -> dict[str, float]:
    configs = [dict(elite.genome) for elite in archive if isinstance(elite.genome, Mapping)]
    true = [[elite.meta["measures"][measure.name] for measure in MEASURES] for elite in archive]
    error = ground.tables.error(configs, np.array(true)).tolist() if configs else [0.0] * len(MEASURES)
    return {measure.name: e for measure, e in zip(MEASURES, error, strict=True)}


def _design(space: ConfigSpace, seed: int) -> list[Config]:
    """Different configurations, drawn in strata."""
    drawn = (sample_stratified(space, numpy_generator(seed, "design", i)) for i in range(_DESIGN))
    return list({space.key(config): config for config in drawn}.values())


def _save(archive: CVTArchive, path: Path) -> None:
    """In place of the one of an earlier run: the journal beside it is what counts."""
    beside = path.with_name(path.name + ".new")
    shutil.rmtree(beside, ignore_errors=True)  # of a run that was killed
    save(archive, beside)
    shutil.rmtree(path, ignore_errors=True)
    beside.rename(path)


def _shares_memory(pool: Executor) -> bool:
    return isinstance(pool, Threads)


class _Watched:
    """An executor that reports how many trials it finished."""

    def __init__(self, pool: Executor, report: Callable[[int], None]) -> None:
        self._pool, self._report, self._done = pool, report, 0

    @property
    def slots(self) -> int:
        return self._pool.slots

    def submit(self, evaluate: Evaluate, trial: Trial) -> None:
        self._done = max(self._done, trial.id)
        self._pool.submit(evaluate, trial)
        self._report(self._done)

    def wait(self, timeout_s: float | None = None) -> list[tuple[int, object]]:
        return self._pool.wait(timeout_s)

    def close(self) -> None:
        self._pool.close()
