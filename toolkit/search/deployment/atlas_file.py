"""What a search found, as one file that other tools read: atlas.json."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.search.archive import CVTArchive
from toolkit.search.atlas.sealing import ATLAS, sealed, unsealed
from toolkit.search.deployment.prices import MEASURES
from toolkit.search.elites import Elite
from toolkit.search.hypervolume import non_dominated

__all__ = ["Point", "front_of", "read_atlas", "write_atlas"]


@dataclass(frozen=True, kw_only=True)
class Point:
    """One deployment: what it is, how to make it, what is known of it. SI units; intervals are [low, high].

    Args:
        recipe: Fields of a recipe.yaml, which `toolkit compile --config` replays.
        quality: On the samples that were searched on; 90 % interval over `n` samples.
        fidelity: 1 few samples, 2 all of the searched ones.
        violation: By how much it exceeds the limits of the search; 0 keeps them.
        held_out: Quality measured anew on samples that the search never saw, and how much less that is; None where it
            was not.
    """

    target: str
    stack: str
    id: str
    config: Mapping[str, Any]
    recipe: Mapping[str, Any]
    quality: float
    quality_interval: Sequence[float]
    fidelity: int
    n: int
    measures: Mapping[str, float]
    intervals: Mapping[str, Sequence[float]]
    provenance: str
    cell: int
    is_on_front: bool
    violation: float = 0.0
    held_out: Mapping[str, Any] | None = field(default=None)


def front_of(archive: CVTArchive) -> list[Elite]:
    """Elites that keep the limits and that none of the others is as good as in everything, by latency."""
    feasible = [elite for elite in archive if elite.violation == 0]
    if not feasible:
        return []
    names = [m.name for m in MEASURES if m.larger_is == "worse"]
    goals = np.array([[e.quality, *(-e.meta["measures"][name] for name in names)] for e in feasible])
    front = [elite for elite, is_free in zip(feasible, non_dominated(goals).tolist(), strict=True) if is_free]
    return sorted(front, key=lambda e: (e.meta["measures"]["latency_s"], e.id))


def write_atlas(folder: Path, document: Mapping[str, Any]) -> Path:
    """Write `atlas.json` into `folder`, whole or not at all; equal atlases are equal files."""
    path = folder / ATLAS
    beside = path.with_suffix(".new")
    beside.write_bytes(sealed(json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n"))
    beside.replace(path)
    return path


def read_atlas(folder: Path) -> dict[str, Any]:
    """The document that `write_atlas` wrote into `folder`.

    Raises:
        InvalidInput: it was cut off or changed since.
    """
    path = folder / ATLAS
    document: dict[str, Any] = json.loads(unsealed(path.read_bytes(), str(path)))
    del document["checksum"]
    return document
