"""A search over a stub of a device, and what is compared of two of them."""

from __future__ import annotations

import numpy as np

from toolkit.search.archive import CVTArchive
from toolkit.search.behavior import BehaviorSpace
from toolkit.search.centroids import cvt_centroids
from toolkit.search.config_space import ConfigSpace
from toolkit.search.genes import Choice
from toolkit.search.measures import Measure
from toolkit.search.runner import SearchRunner, Settings
from toolkit.search.trials import Budget, Evaluated

BITS, KEPT = (2, 4, 8, 16), (0.25, 0.5, 0.75, 1.0)
SPACE = ConfigSpace([*(Choice(f"layers.{k}.bits", BITS) for k in range(3)),
                     *(Choice(f"layers.{k}.kept", KEPT) for k in range(3))])  # fmt: skip
MEASURES = BehaviorSpace([Measure(name="latency_s", unit="s", low=1e-4, high=1e-1, transform="log", larger_is="worse"),
                          Measure(name="sparsity", unit="1", low=0.0, high=1.0)])  # fmt: skip
CENTROIDS = cvt_centroids(60, 2, n_samples=2_000)
MACS = np.array([1.0, 4.0, 2.0])


def archive():
    return CVTArchive(MEASURES, CENTROIDS, quality_min=0.0, quality_max=1.0)


def target(trial):
    """A stub of a device and of a network of three layers, whose layers bear pruning and few bits unequally."""
    bits = np.array([trial.config[f"layers.{k}.bits"] for k in range(3)])
    kept = np.array([trial.config[f"layers.{k}.kept"] for k in range(3)])
    latency = 1e-3 * float((MACS * kept * (0.5 + bits / 8)).sum()) + 5e-4
    rounding = np.array([0.9, 0.3, 0.5]) * 2.0**-bits
    pruning = np.array([0.05, 0.12, 0.3]) * (1 - kept) ** 2
    quality = 0.95 - float(rounding.sum() + pruning.sum() + 4 * (rounding * pruning).sum())
    return Evaluated(quality, {"latency_s": latency, "sparsity": float(1 - kept.mean())})


def settings(**changes):
    return Settings(**{"seed": 0, "generation": 16, "start": 32, "objectives": ("latency_s",)} | changes)


def contents(of):
    return [(e.cell, e.id, e.evaluation, e.violation, e.birth, dict(e.meta), e.parents, tuple(e.measures)) for e in of]


def bytes_of(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def search(folder, evaluations, evaluate=target, **options):
    with SearchRunner.opened(folder, SPACE, archive(), options.pop("settings", settings()), **options) as runner:
        runner.run(evaluate, Budget(evaluations))
    return runner
