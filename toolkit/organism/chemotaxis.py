"""Chemotaxis: parents smell the stronger the nearer they are in behaviour; a hungry organism smells farther.

    w_i = c_i exp(-|b - x_i|² / (2 σ²)),  σ = σ0 (1 + hunger);   A = sum of w_i

Where A is below metabolic_rate (1 - hunger), nothing is worth going for; else source i is drawn with w_i / A.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.errors import DescriptorError
from toolkit.organism.protocols import ArchiveView
from toolkit.organism.records import ComponentRecord
from toolkit.rng import uniform

__all__ = ["Source", "SourceField"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Source:
    """A `nutrient` at a place (m,) of the unit cube."""

    nutrient: Any
    location: Floats
    concentration: float


class SourceField:
    """Sources of parents, and draws among them.

    Args:
        sigma: Distance σ0 in the unit cube over which a source can be smelt.
        metabolic_rate: Attractiveness below which a sated organism stays where it is.
        root: Of the draws.

    Raises:
        DescriptorError: `sigma` is not positive, or `metabolic_rate` negative.
    """

    def __init__(self, *, sigma: float = 0.2, metabolic_rate: float = 0.1, root: int = 0) -> None:
        if not sigma > 0 or not metabolic_rate >= 0:
            raise DescriptorError(
                f"a field of sigma {sigma} and metabolic rate {metabolic_rate}", hint="sigma > 0, rate >= 0"
            )
        self.sigma, self.metabolic_rate, self.root = sigma, metabolic_rate, root
        self._sources: list[Source] = []

    @classmethod
    def of_archive(cls, archive: ArchiveView, **options: Any) -> SourceField:
        """Every elite as a source of its own record; what children of it achieved is its concentration."""
        field = cls(**options)
        for elite in archive:
            record = ComponentRecord.of_genome(elite.genome, elite.meta)
            field.add_source((elite.id, record, elite.quality), elite.unit, concentration_of(elite.curiosity))
        return field

    def __len__(self) -> int:
        return len(self._sources)

    def add_source(self, nutrient: Any, location: Floats, concentration: float) -> None:
        """Put a source at `location` (m,).

        Raises:
            ValueError: it lies outside of the unit cube or has another number of axes, or `concentration` is negative
                or not finite.
        """
        place = np.array(location, np.float64)
        if place.ndim != 1 or not ((place >= 0) & (place <= 1)).all():
            raise ValueError(f"a location lies in the unit cube, got {place}")
        if self._sources and len(place) != len(self._sources[0].location):
            raise ValueError(f"a location of {len(place)} axes among those of {len(self._sources[0].location)}")
        if not 0 <= concentration < np.inf:
            raise ValueError(f"a concentration is 0 or more and finite, got {concentration}")
        place.flags.writeable = False
        self._sources.append(Source(nutrient, place, float(concentration)))

    def attractiveness(self, behavior: Floats, hunger: float) -> Floats:
        """(n,), the w of each source at `behavior` (m,) in the unit cube.

        Raises:
            ValueError: hunger is not from 0 to 1, or `behavior` has another number of axes.
        """
        if not 0 <= hunger <= 1:
            raise ValueError(f"hunger goes from 0 to 1, got {hunger}")
        locations, here = self._locations(), np.asarray(behavior, np.float64)
        if here.shape != locations.shape[1:]:
            raise ValueError(f"a behaviour {here.shape} among locations {locations.shape[1:]}")
        distances = np.square(locations - here).sum(1)
        sigma = self.sigma * (1 + hunger)
        found: Floats = self._concentrations() * np.exp(-distances / (2 * sigma**2))
        return found

    def sample(self, behavior: Floats, hunger: float, *path: int | str) -> Any | None:
        """The nutrient of a source that is drawn by `path` alone; None where nothing is worth it.

        At hunger 1 there always is one, if any source has a concentration: far from all, the nearest is taken for
        likeliest though its w would underflow.
        """
        if not self._sources:
            return None
        w = self.attractiveness(behavior, hunger)
        if w.sum() < self.metabolic_rate * (1 - hunger):
            return None
        if not w.sum() > 0:
            w = self._rescaled(behavior, hunger)
        if not w.sum() > 0:
            return None
        drawn = uniform(self.root, "chemotaxis", *path) * w.sum()
        index = min(int(np.searchsorted(np.cumsum(w), drawn, side="right")), int(np.flatnonzero(w)[-1]))
        return self._sources[index].nutrient

    def gradient(self, behavior: Floats, hunger: float = 0.0) -> Floats:
        """(m,), where it smells strongest from `behavior`: the mean of x_i - b by w; zeros where nothing smells."""
        here = np.asarray(behavior, np.float64)
        w = self.attractiveness(here, hunger) if self._sources else np.zeros(0)
        if not w.sum() > 0:
            return np.zeros_like(here)
        uphill: Floats = w @ (self._locations() - here) / w.sum()
        return uphill

    def clear(self) -> None:
        """Take all sources away."""
        self._sources = []

    def _rescaled(self, behavior: Floats, hunger: float) -> Floats:
        """w over the greatest of its exponentials, which cannot underflow everywhere."""
        concentrations = self._concentrations()
        distances = np.square(self._locations() - np.asarray(behavior, np.float64)).sum(1)
        nearest = distances[concentrations > 0].min(initial=np.inf)
        if not np.isfinite(nearest):
            return np.zeros_like(concentrations)
        sigma = self.sigma * (1 + hunger)
        found: Floats = concentrations * np.exp(np.minimum(0, nearest - distances) / (2 * sigma**2))
        return found

    def _locations(self) -> Floats:
        return np.array([source.location for source in self._sources])

    def _concentrations(self) -> Floats:
        return np.array([source.concentration for source in self._sources])


def concentration_of(curiosity: float) -> float:
    """A positive number that grows with `curiosity`, which falls below 0 for elites whose children did not stay."""
    return float(np.logaddexp(0.0, curiosity))
