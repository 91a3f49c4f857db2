"""Other searches, set as their documentation has it for spaces like these.

Integers for pymoo; a relaxation to the unit cube for pyribs, which has no other solutions; integers and categories for
Optuna, whose estimators take much longer to propose than the others.
"""

from __future__ import annotations

from math import log

import numpy as np

from toolkit.bench.search.asking import Asked
from toolkit.rng import derive_seed

__all__ = ["map_elites", "nsga2", "tpe"]

_BATCH, _START = 16, 32
_POPULATION = 50


def map_elites(asked: Asked, seed: int) -> None:
    """pyribs: Gaussian and iso-line emitters on the unit cube, over the same cells."""
    from ribs.archives import CVTArchive as Theirs
    from ribs.emitters import EmitterBase, GaussianEmitter, IsoLineEmitter
    from ribs.schedulers import Scheduler

    problem, sizes = asked.problem, np.array(asked.problem.sizes)
    genes = len(sizes)
    ranges = [(0.0, 1.0)] * len(problem.space)
    archive = Theirs(solution_dim=genes, centroids=problem.centroids, ranges=ranges, seed=seed)
    begin = np.random.default_rng(derive_seed(seed, "map-elites")).random((2, _START, genes))
    bounds = [(0.0, 1.0)] * genes
    emitters: list[EmitterBase] = [
        GaussianEmitter(archive, sigma=0.2, initial_solutions=begin[0], bounds=bounds, batch_size=_BATCH, seed=seed),
        IsoLineEmitter(archive, iso_sigma=0.05, line_sigma=0.2, initial_solutions=begin[1], bounds=bounds,
                       batch_size=_BATCH, seed=seed + 1),
    ]  # fmt: skip
    scheduler = Scheduler(archive, emitters)
    while asked.left:
        rows = np.minimum((scheduler.ask() * sizes).astype(int), sizes - 1)[: asked.left]
        points = [asked(tuple(row)) for row in rows.tolist()]
        if not asked.left:
            return
        unit, _ = problem.space.normalize(np.array([[p.latency_s, p.model_bytes] for p in points]))
        scheduler.tell(np.array([p.quality for p in points]), unit)


def nsga2(asked: Asked, seed: int) -> None:
    """pymoo: NSGA-II on integers, quality and latency as goals, without duplicates."""
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.problem import ElementwiseProblem
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.operators.sampling.rnd import IntegerRandomSampling
    from pymoo.optimize import minimize

    sizes = np.array(asked.problem.sizes)

    class _Deployments(ElementwiseProblem):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(n_var=len(sizes), n_obj=2, xl=0, xu=sizes - 1, vtype=int)

        def _evaluate(self, x: np.ndarray[tuple[int], np.dtype[np.int64]], out: dict[str, list[float]],
                      *args: object, **kwargs: object) -> None:  # fmt: skip
            point = asked(tuple(x.tolist()))
            out["F"] = [-point.quality, log(point.latency_s)]

    algorithm = NSGA2(
        pop_size=_POPULATION, sampling=IntegerRandomSampling(),
        crossover=SBX(prob=1.0, eta=3.0, vtype=float, repair=RoundingRepair()),
        mutation=PM(prob=1.0, eta=3.0, vtype=float, repair=RoundingRepair()), eliminate_duplicates=True,
    )  # fmt: skip
    minimize(_Deployments(), algorithm, ("n_eval", asked.left), seed=seed, verbose=False)


def tpe(asked: Asked, seed: int) -> None:
    """Optuna: multi-objective tree-structured Parzen estimators; texts are categories, other genes numbers."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    genes = asked.problem.genes

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        indices = [
            trial.suggest_categorical(name, range(len(values)))
            if isinstance(values[0], str)
            else trial.suggest_int(name, 0, len(values) - 1)
            for name, values in genes.items()
        ]
        point = asked(tuple(indices))
        return point.quality, log(point.latency_s)

    study = optuna.create_study(directions=["maximize", "minimize"], sampler=optuna.samplers.TPESampler(seed=seed))
    study.optimize(objective, n_trials=asked.left)
