"""A7: what the archive's space is made of: measured axes, decorrelated ones, random projections, or random cells."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from toolkit.bench.ablations.ablation import Ablation, Contrast, Measures
from toolkit.bench.ablations.arms import dynamic
from toolkit.bench.ablations.comparing import Compared, Verdict
from toolkit.bench.ablations.learning import ARCHIVES, Learnt, learn
from toolkit.bench.ablations.presets import Preset
from toolkit.digests import canonical_digest
from toolkit.errors import DescriptorError
from toolkit.organism.behaviors import AXES
from toolkit.rng import numpy_generator
from toolkit.search.behavior import BehaviorSpace
from toolkit.search.component_archive import ComponentArchive, component_archive, component_space
from toolkit.search.measures import Floats

__all__ = ["ABLATION"]

_ARMS = ("raw axes", "decorrelated", "random projections", "random cells")
_NAMES = {"raw axes": "plain", "decorrelated": "decorrelated", "random projections": "projected",
          "random cells": "random"}  # fmt: skip
_PILOT = 64


class _Projected(ComponentArchive):
    """Each axis a random mix of the measured ones."""

    def _place(self, behavior: Floats) -> Floats:
        mix = numpy_generator(self._seed, "ablation", "projection").dirichlet(np.ones(len(behavior)), len(behavior))
        place: Floats = mix @ behavior
        return place


class _Random(ComponentArchive):
    """A cell that the behaviour decides and that says nothing of it."""

    def _place(self, behavior: Floats) -> Floats:
        key = canonical_digest([round(float(value), 9) for value in behavior])
        place: Floats = numpy_generator(self._seed, "ablation", "cell", key).uniform(size=len(behavior))
        return place


def _decorrelated(seed: int, layer: str) -> ComponentArchive:
    """Fitted on the behaviours of untrained components; where those say too little, the axes as they are."""
    return component_archive(seed, layer, space=_fitted(seed))


def _fitted(seed: int) -> BehaviorSpace:
    from toolkit.organism.behaviors import measure_behaviors, probe_batch
    from toolkit.organism.organism import Organism
    from toolkit.organism.species import Species

    pilot = Organism.of_founders(32, Species(8), _PILOT, budget_bytes=2**30, seed=seed)
    rows = np.array(list(measure_behaviors(pilot, probe_batch(32, length=32), causal=True).values()))
    rows[:, 2] = numpy_generator(seed, "ablation", "shares").dirichlet(np.ones(6), _PILOT)[:, 0]
    try:
        space = BehaviorSpace.fit(component_space().measures, rows)
    except DescriptorError:
        return component_space()
    return space if len(space) == len(AXES) else component_space()


ARCHIVES.update({
    "decorrelated": _decorrelated,
    "projected": lambda seed, layer: _as(_Projected, seed, layer),
    "random": lambda seed, layer: _as(_Random, seed, layer),
})  # fmt: skip


def _as(kind: type[ComponentArchive], seed: int, layer: str) -> ComponentArchive:
    return kind(component_archive(seed, layer).archive, seed, layer)


def _run(seed: int, preset: Preset) -> Mapping[str, Measures]:
    return {arm: _measures(learn(dynamic(preset, archive=_NAMES[arm]), preset, seed)) for arm in _ARMS}


def _measures(found: Learnt) -> Measures:
    assert found.keeping is not None
    last = found.keeping.history[-1]
    return {"test_loss_nats": found.loss, "coverage": last["coverage"], "qd_norm": last["qd_norm"]}


def _conclude(found: Mapping[str, Compared], means: Mapping[str, Measures]) -> str:
    verdicts = {arm: found[f"test_loss_nats: {arm} - random cells"].verdict for arm in _ARMS[:3]}
    said = "Final loss beside random cells: " + ", ".join(f"{arm} {verdict}" for arm, verdict in verdicts.items()) + "."
    if Verdict.BETTER in (verdicts["raw axes"], verdicts["decorrelated"]):
        return f"{said} Measured behaviours are worth their cells."
    return f"{said} Cells by behaviour are not shown to help a training: a plain list of the fittest would do as well."


ABLATION = Ablation(
    name="A7",
    question="Does it matter by which behaviours components are archived?",
    arms=_ARMS,
    rule="decorrelated axes better than random cells, else the archive is overhead: plain top-k",
    run=_run,
    contrasts=(
        *(Contrast(arm=arm, against="random cells", measure="test_loss_nats", margin=0.02) for arm in _ARMS[:3]),
        *(
            Contrast(arm=arm, against="random cells", measure="qd_norm", margin=0.01, better="higher")
            for arm in _ARMS[:3]
        ),
    ),
    conclude=_conclude,
    note="Random cells spread elites over the whole cube, so their coverage and qd_norm say nothing of behaviour.",
)
