"""Ways to search. Each asks for the worth of so many configurations, one after the other; nothing else counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from toolkit.bench.search.asking import Asked, Method
from toolkit.bench.search.peers import map_elites, nsga2, tpe
from toolkit.bench.search.problems import Indices, Problem
from toolkit.errors import MissingDependency
from toolkit.search.archive import CVTArchive
from toolkit.search.config_space import Config, ConfigSpace
from toolkit.search.deployment.guided import guides
from toolkit.search.deployment.prices import MEASURES
from toolkit.search.emitters import Emitter, Stratified, standard
from toolkit.search.genes import Choice, Value
from toolkit.search.measures import Floats
from toolkit.search.runner import SearchRunner, Settings
from toolkit.search.trials import Budget, Evaluated, Trial

__all__ = ["ABLATION", "METHODS", "Prices", "blind", "ours", "searched", "stratified"]

_OBJECTIVES = ("latency_s",)
_OURS = ("front", "guided", "guided front")


def ours(asked: Asked, seed: int) -> None:
    """As `toolkit search` has it: prices are known beforehand, and two of those who propose ask a model of the quality.

    A price is no evaluation: the cost model gives thousands in the time of one look at a network's answers.
    """
    _with(_OURS)(asked, seed)


def _emitters(problem: Problem) -> dict[str, Emitter]:
    """All there are, by name."""
    prices: Any = Prices(problem)
    return {emitter.name: emitter for emitter in (*guides(prices, {}, _OBJECTIVES), *standard(_OBJECTIVES))}


def _with(names: Sequence[str]) -> Method:
    def run(asked: Asked, seed: int) -> None:
        emitters = _emitters(asked.problem)
        searched(asked, seed, [emitters[name] for name in names])

    return run


def blind(asked: Asked, seed: int) -> None:
    """The same without prices: what a configuration costs is known when it was evaluated, as for the peers."""
    searched(asked, seed, standard(_OBJECTIVES))


def searched(asked: Asked, seed: int, emitters: Sequence[Emitter], *, start: int = 64) -> SearchRunner:
    """A search of this package with these emitters, over the problem's cells."""
    problem = asked.problem
    archive = CVTArchive(problem.space, problem.centroids, quality_min=0.0, quality_max=1.0)
    settings = Settings(seed=seed, objectives=_OBJECTIVES, start=start)

    def evaluate(trial: Trial) -> Evaluated:
        point = asked(_indices(problem, trial.config))
        return Evaluated(point.quality, {"latency_s": point.latency_s, "model_bytes": point.model_bytes})

    runner = SearchRunner(_space(problem), archive, settings, emitters=emitters)
    runner.run(evaluate, Budget(evaluations=asked.left))
    return runner


def _space(problem: Problem) -> ConfigSpace:
    return ConfigSpace([Choice(name, values) for name, values in problem.genes.items()])


def _indices(problem: Problem, config: Mapping[str, Value]) -> Indices:
    return tuple(values.index(config[name]) for name, values in problem.genes.items())


class Prices:
    """What the cost model says of configurations, in the columns of a deployment's measures."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem

    def measures(self, configs: Sequence[Config]) -> Floats:
        """(n, measures); those that the comparison does not look at are 0."""
        found = np.zeros((len(configs), len(MEASURES)))
        columns = [[measure.name for measure in MEASURES].index(name) for name in ("latency_s", "model_bytes")]
        for row, config in enumerate(configs):
            point = self._problem.evaluate(_indices(self._problem, config))
            found[row, columns] = point.latency_s, point.model_bytes
        return found


def stratified(asked: Asked, seed: int) -> None:
    """By design alone: what nothing was learnt for."""
    searched(asked, seed, [Stratified()])


def _peer(method: Method, package: str) -> Method:
    def run(asked: Asked, seed: int) -> None:
        try:
            method(asked, seed)
        except ImportError as error:
            raise MissingDependency(
                f"{package} is not installed: it cannot be compared with", hint="pip install 'edge-toolkit[bench]'"
            ) from error

    return run


METHODS: Mapping[str, Method] = {
    "ours": ours,
    "ours without prices": blind,
    "stratified random": stratified,
    "pyribs MAP-Elites": _peer(map_elites, "pyribs"),
    "pymoo NSGA-II": _peer(nsga2, "pymoo"),
    "Optuna TPE": _peer(tpe, "Optuna"),
}

ABLATION: Mapping[str, Method] = {
    "ours": ours,
    **{f"without {one}": _with([name for name in _OURS if name != one]) for one in _OURS},
    **{f"with {one}": _with([*_OURS, one]) for one in ("genetic", "blocks", "stratified")},
}
"""Ours with each of those who propose left out, and with each that is left out of it put in."""
