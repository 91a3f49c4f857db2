"""A11: what an archive under noise keeps, and by how much it flatters itself, under each policy of comparing.

Candidates have a true accuracy that depends on where they are and on luck of birth. Under "mean" and "lcb" some are
asked few examples and some many, as where bad ones are given up early; "paired" has to ask all of them the same ones.
All policies ask as many in all.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from toolkit.bench.ablations.ablation import Ablation, Contrast, Measures
from toolkit.bench.ablations.comparing import Compared, Verdict
from toolkit.bench.ablations.presets import Preset
from toolkit.rng import numpy_generator
from toolkit.search.archive import CVTArchive
from toolkit.search.behavior import BehaviorSpace
from toolkit.search.centroids import cvt_centroids
from toolkit.search.elites import Candidate
from toolkit.search.measures import Floats, Measure
from toolkit.search.preference import Policy

__all__ = ["ABLATION"]

_ASKED, _CELLS = (50, 200, 350), 64
_EACH = 200
"""Examples that "paired" asks of every candidate: the mean of the above."""

_PER_CELL, _BATCH = 40, 64
_POLICIES: tuple[Policy, ...] = ("mean", "lcb", "paired")
_MARGIN = 0.005


def _run(seed: int, preset: Preset) -> Mapping[str, Measures]:
    count = _CELLS * (4 if preset.name == "smoke" else _PER_CELL)
    rng = numpy_generator(seed, "ablation", "noise")
    places = rng.uniform(size=(count, 2))
    skill = 1.0 + np.sin(3 * places[:, 0]) * np.cos(2 * places[:, 1]) + 0.3 * rng.standard_normal(count)
    hardness = 1.5 * rng.standard_normal(max(_ASKED))
    chance = 1 / (1 + np.exp(hardness - skill[:, None]))  # (count, examples): easy ones are easy for all
    right = (rng.uniform(size=chance.shape) < chance).astype(np.float64)
    truth = chance.mean(1)
    asked = rng.permutation(np.resize(_ASKED, count))
    space = BehaviorSpace([Measure(name=name, unit="1", low=0.0, high=1.0) for name in ("x", "y")])
    centroids = cvt_centroids(_CELLS, 2, n_samples=4096, seed=0)
    return {policy: _kept(policy, space, centroids, places, right, truth, asked) for policy in _POLICIES}


def _kept(
    policy: Policy, space: BehaviorSpace, centroids: Floats, places: Floats, right: Floats, truth: Floats, asked: Floats
) -> Measures:
    archive = CVTArchive(space, centroids, quality_min=0.0, quality_max=1.0, policy=policy)
    for first in range(0, len(places), _BATCH):
        rows = range(first, min(first + _BATCH, len(places)))
        archive.add([_candidate(policy, k, places[k], right[k], int(asked[k])) for k in rows])
    elites = list(archive)
    true = np.array([truth[int(elite.genome["number"])] for elite in elites])  # type: ignore[index]
    claimed = np.array([elite.quality for elite in elites])
    return {"true_qd_norm": float(true.sum() / len(centroids)), "inflation": float((claimed - true).mean()),
            "claimed_qd_norm": float(claimed.sum() / len(centroids))}  # fmt: skip


def _candidate(policy: Policy, number: int, place: Floats, right: Floats, asked: int) -> Candidate:
    answers = right[: _EACH if policy == "paired" else asked]
    return Candidate({"number": number}, place, float(answers.mean()), n=len(answers),
                     m2=float(np.square(answers - answers.mean()).sum()),
                     examples=answers if policy == "paired" else None)  # fmt: skip


def _conclude(found: Mapping[str, Compared], means: Mapping[str, Measures]) -> str:
    least = min(_POLICIES, key=lambda policy: means[policy]["inflation"])
    true = [f"{policy} {found[f'true_qd_norm: {policy} - mean'].verdict}" for policy in _POLICIES[1:]]
    kept = (
        f"Least inflation: {least}, {means[least]['inflation']:.4f} against {means['mean']['inflation']:.4f} of mean."
    )
    worse = least != "mean" and found[f"true_qd_norm: {least} - mean"].verdict is Verdict.WORSE
    price = (
        f" It pays with true quality: true qd_norm {', '.join(true)}."
        if worse
        else f" True qd_norm: {', '.join(true)}."
    )
    return kept + price


ABLATION = Ablation(
    name="A11",
    question="Which policy of comparing noisy candidates flatters an archive least?",
    arms=_POLICIES,
    rule="the default is the policy with the least inflation at equal evaluations",
    run=_run,
    contrasts=tuple(
        Contrast(arm=policy, against="mean", measure=measure, margin=_MARGIN,
                 better="higher" if measure == "true_qd_norm" else "lower")
        for measure in ("inflation", "true_qd_norm") for policy in _POLICIES[1:]
    ),
    conclude=_conclude,
    note=f"Synthetic candidates, {_PER_CELL} a cell, {_EACH} binary examples each in the mean, all of one list.",
)  # fmt: skip
