"""The space that an archive divides into cells: measures with units, brought to the unit cube and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from toolkit.digests import canonical_digest
from toolkit.errors import ArchiveFormatError, DescriptorError
from toolkit.search.decorrelation import Axis, fit_axes
from toolkit.search.measures import Floats, Measure

__all__ = ["CLIPPED", "NOT_FINITE", "OK", "BehaviorSpace"]

OK, CLIPPED, NOT_FINITE = 0, 1, 2


class BehaviorSpace:
    """Measures and, where it was fitted, what each says beyond the ones before it.

    Deployments' latency, memory, energy and size hardly move apart; cells over them as they are stay empty. `fit` turns
    axis k into "memory beyond what this latency implies", evenly spread. Source for the need: Kent et al. 2022 discuss
    what unreachable cells do to quality-diversity scores.

    Args:
        measures: In order of priority: what comes first keeps its meaning.
        axes: Of `fit`; none leaves every measure as it is.

    Raises:
        DescriptorError: there is no measure, two have one name, or axes are not one for each measure.
    """

    def __init__(self, measures: Sequence[Measure], axes: Sequence[Axis] = ()) -> None:
        names = [measure.name for measure in measures]
        if not names or len(set(names)) < len(names) or len(axes) not in (0, len(names)):
            raise DescriptorError(f"no space of the measures {names} with {len(axes)} axes", hint="name each once")
        self.measures, self.axes = tuple(measures), tuple(axes)
        self._low = np.array([measure.low for measure in measures])
        self._high = np.array([measure.high for measure in measures])
        self._stretched = [(k, measure) for k, measure in enumerate(measures) if measure.transform != "linear"]
        ends = self._stretch(np.array([self._low, self._high]))
        self._start, self._per_unit = ends[0], 1 / (ends[1] - ends[0])

    def __len__(self) -> int:
        return len(self.measures)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the measures."""
        return tuple(measure.name for measure in self.measures)

    @classmethod
    def fit(
        cls, measures: Sequence[Measure], samples: Floats, *, decorrelate: bool = True, drop_constant: bool = False
    ) -> BehaviorSpace:
        """A space whose axes are spread evenly over `samples` (n, m), raw; rows that are not finite are left out.

        Raises:
            DescriptorError: fewer samples than twice the measures; a measure is constant or follows from those before.
        """
        plain = cls(measures)
        rows = plain._checked(samples)
        rows = rows[np.isfinite(rows).all(1)]
        if len(rows) < 2 * len(plain):
            raise DescriptorError(
                f"{len(rows)} finite samples for {len(plain)} measures", hint="measure a larger design, or correct it"
            )
        places = plain._places(rows)
        kept = list(range(len(plain)))
        while True:
            try:
                chosen = [plain.measures[k] for k in kept]
                return cls(chosen, fit_axes(places[:, kept], [m.name for m in chosen], decorrelate=decorrelate))
            except DescriptorError as error:
                guilty = [k for k in kept if repr(plain.measures[k].name) in error.problem]
                if not drop_constant or not guilty or len(kept) == 1:
                    raise
                kept.remove(guilty[0])

    def normalize(self, raw: Floats) -> tuple[Floats, NDArray[np.int8]]:
        """Places (n, m) in the unit cube of raw measures (n, m), and a flag (n,) each: OK, CLIPPED or NOT_FINITE.

        A row that is not finite has NaN for its place and concerns no other row.
        """
        rows = self._checked(raw)
        inside = np.minimum(np.maximum(rows, self._low), self._high)
        flags = (rows != inside).any(1).astype(np.int8)  # OK, CLIPPED; NaN differs from itself
        places = self._quantiles(self._in_unit_cube(inside))
        if flags.any():
            broken = ~np.isfinite(rows).all(1)
            flags[broken], places[broken] = NOT_FINITE, np.nan
        return places, flags

    def normalize_one(self, raw: Floats) -> tuple[Floats, int]:
        """`normalize` of one row (m,)."""
        if self.axes or self._stretched or raw.shape != self._low.shape:
            units, flags = self.normalize(raw[None])
            return units[0], int(flags[0])
        inside = np.minimum(np.maximum(raw, self._low), self._high)
        place: Floats = (inside - self._start) * self._per_unit
        if inside.tolist() == raw.tolist():
            return place, OK
        return place, CLIPPED if np.isfinite(raw).all() else NOT_FINITE

    def denormalize(self, unit: Floats) -> Floats:
        """Raw measures (n, m) of places (n, m)."""
        places = np.array(self._checked(unit))
        for k, axis in enumerate(self.axes):
            places[:, k] = axis.place(places[:, k], places[:, :k])
        stretched = self._start + places / self._per_unit
        for k, measure in self._stretched:
            stretched[:, k] = measure.unstretch(stretched[:, k])
        inside: Floats = np.minimum(np.maximum(stretched, self._low), self._high)
        return inside

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {"measures": [m.to_dict() for m in self.measures], "axes": [axis.to_dict() for axis in self.axes]}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> BehaviorSpace:
        """From JSON.

        Raises:
            ArchiveFormatError: it is not what `to_dict` makes.
        """
        try:
            return cls([Measure(**m) for m in data["measures"]], [Axis.from_dict(axis) for axis in data["axes"]])
        except (KeyError, TypeError, ValueError) as error:
            raise ArchiveFormatError(f"not a behaviour space: {error}", hint="take it from an archive") from error

    @property
    def digest(self) -> str:
        """Equal for equal spaces."""
        return canonical_digest(self.to_dict())

    def _checked(self, rows: Floats) -> Floats:
        array = np.asarray(rows, dtype=np.float64)
        if array.ndim != 2 or array.shape[1] != len(self):
            raise DescriptorError(
                f"measures of shape {array.shape} for a space of {len(self)}", hint=f"give (n, {len(self)})"
            )
        return array

    def _places(self, rows: Floats) -> Floats:
        return self._in_unit_cube(np.minimum(np.maximum(rows, self._low), self._high))

    def _in_unit_cube(self, inside: Floats) -> Floats:
        placed: Floats = (self._stretch(inside) - self._start) * self._per_unit
        return placed

    def _stretch(self, inside: Floats) -> Floats:
        if not self._stretched:
            return inside
        stretched = inside.copy()
        for k, measure in self._stretched:
            stretched[:, k] = measure.stretch(inside[:, k])
        return stretched

    def _quantiles(self, places: Floats) -> Floats:
        if not self.axes:
            return places
        return np.column_stack([axis.quantile(places[:, k], places[:, :k]) for k, axis in enumerate(self.axes)])
