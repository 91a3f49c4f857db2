"""The archive as a training uses it: what is offered, whom newborns begin from, and its state for a checkpoint.

Training may not import the archive, which stands above it: whoever composes a training hands one in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from toolkit.organism.records import ComponentRecord

__all__ = ["Elites", "Offer", "Parent"]

Floats = NDArray[np.float64]


class Offer(NamedTuple):
    """A component as it was measured: its record, raw behaviour (m,) and fitness in nats."""

    record: ComponentRecord
    behavior: Floats
    fitness: float
    parents: tuple[str, ...] = ()


class Parent(NamedTuple):
    """An elite that a newborn may begin from."""

    elite_id: str
    record: ComponentRecord
    fitness: float


class Elites(Protocol):
    """An archive of the components of one layer."""

    @property
    def axes(self) -> Sequence[str]:
        """Names of the measures that it sorts by."""

    def offer(self, offers: Sequence[Offer], *, step: int) -> int:
        """How many stay."""

    def parent(self, behavior: Floats, hunger: float, *path: int | str) -> Parent | None:
        """One near to raw `behavior`, or further away the greater the hunger, in 0 to 1; None where none attracts."""

    def figures(self) -> Mapping[str, float]:
        """`coverage` and `qd_norm`, both from 0 to 1."""

    def save(self, folder: Path) -> None:
        """Write it to `folder`, to be read with `toolkit archive`."""

    def state(self) -> dict[str, Any]:
        """For a checkpoint: tensors, numbers, texts, lists and dicts."""

    def load(self, state: Mapping[str, Any]) -> None:
        """From a checkpoint."""
