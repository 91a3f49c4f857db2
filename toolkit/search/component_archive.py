"""Elites among the components of an organism's layer: what a training offers, and whom newborns begin from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from toolkit.organism.archive_view import ReadOnlyArchive
from toolkit.organism.behaviors import AXES
from toolkit.organism.chemotaxis import SourceField
from toolkit.organism.records import ComponentRecord
from toolkit.rng import derive_seed
from toolkit.search.archive import CVTArchive
from toolkit.search.behavior import BehaviorSpace
from toolkit.search.bootstrap import bootstrap
from toolkit.search.centroids import cvt_centroids
from toolkit.search.elites import Candidate, Elite, Outcome
from toolkit.search.measures import Floats, Measure
from toolkit.search.snapshots import write_snapshot
from toolkit.search.statistics import statistics
from toolkit.training.organism.archiving import Offer, Parent

__all__ = ["ComponentArchive", "component_archive", "component_space"]

_WORST, _BEST = -1.0, 1.0
"""Fitness in nats that the score of the archive counts from, and up to."""

_SAMPLES = 8192


def component_space() -> BehaviorSpace:
    """The axes that behaviours are measured on, as they are."""
    return BehaviorSpace([Measure(name=a.name, unit=a.unit, low=a.low, high=a.high) for a in AXES])


def component_archive(
    seed: int, layer: str, *, cells: int = 16, space: BehaviorSpace | None = None
) -> ComponentArchive:
    """An empty one. Few cells: a training of S steps makes about S / 100 offers for each component."""
    chosen = space or component_space()
    centroids = cvt_centroids(cells, len(chosen), n_samples=_SAMPLES, seed=derive_seed(0, "component cells"))
    return ComponentArchive(CVTArchive(chosen, centroids, quality_min=_WORST, quality_max=_BEST), seed, layer)


class ComponentArchive:
    """Implements `toolkit.training.organism.archiving.Elites`.

    Args:
        columns: Which of the measured axes the archive's space has; all where None.
    """

    def __init__(self, archive: CVTArchive, seed: int, layer: str, *, columns: Sequence[int] | None = None) -> None:
        self.archive, self._seed, self._layer, self._columns = archive, seed, layer, columns

    @property
    def axes(self) -> Sequence[str]:
        """See `Elites`."""
        return [measure.name for measure in self.archive.space.measures]

    def offer(self, offers: Sequence[Offer], *, step: int) -> int:
        """See `Elites`."""
        report = self.archive.add([
            Candidate(dict(offer.record.tensors), self._place(offer.behavior), offer.fitness,
                      meta={**offer.record.meta, "step": step, "layer": self._layer}, parents=offer.parents)
            for offer in offers
        ])  # fmt: skip
        return int((report.outcome > Outcome.REJECTED).sum())

    def parent(self, behavior: Floats, hunger: float, *path: int | str) -> Parent | None:
        """See `Elites`."""
        if not len(self.archive):
            return None
        unit, _ = self.archive.space.normalize(self._place(behavior)[None])
        field = SourceField.of_archive(ReadOnlyArchive(self.archive, bootstrap), root=self._seed)
        found = field.sample(unit[0], hunger, *path)
        return None if found is None else Parent(found[0], found[1], found[2])

    def figures(self) -> Mapping[str, float]:
        """See `Elites`."""
        held = statistics(self.archive)
        return {"coverage": held.coverage, "qd_norm": held.qd_norm}

    def save(self, folder: Path) -> None:
        """See `Elites`."""
        write_snapshot(self.archive, folder, 1)

    def state(self) -> dict[str, Any]:
        """See `Elites`."""
        return {"seen": self.archive.seen, "elites": [_kept(elite) for elite in self.archive]}

    def load(self, state: Mapping[str, Any]) -> None:
        """See `Elites`."""
        self.archive = self.archive.empty()
        self.archive.restore([(_candidate(held), held["birth"]) for held in state["elites"]], seen=state["seen"])
        self.archive.set_curiosity([held["curiosity"] for held in state["elites"]])

    def _place(self, behavior: Floats) -> Floats:
        return behavior if self._columns is None else behavior[list(self._columns)]


def _kept(elite: Elite) -> dict[str, Any]:
    record = ComponentRecord.of_genome(elite.genome, elite.meta)  # type: ignore[arg-type]
    return {
        "tensors": {name: torch.from_numpy(np.array(array)) for name, array in record.tensors.items()},
        "meta": dict(elite.meta), "parents": list(elite.parents), "measures": elite.measures.tolist(),
        "evaluation": list(elite.evaluation), "birth": elite.birth, "curiosity": elite.curiosity,
    }  # fmt: skip


def _candidate(held: Mapping[str, Any]) -> Candidate:
    quality, n, m2 = held["evaluation"]
    return Candidate({name: tensor.numpy() for name, tensor in held["tensors"].items()}, np.array(held["measures"]),
                     quality, n, m2, meta=held["meta"], parents=tuple(held["parents"]))  # fmt: skip
