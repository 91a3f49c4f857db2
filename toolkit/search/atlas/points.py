"""atlas.json: every deployment that a search found worth keeping. Read as data that a stranger may have written."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from targets.errors import InvalidInput, UsageError
from toolkit.config import Config
from toolkit.search.atlas.sealing import ATLAS, VERSION, unsealed
from toolkit.search.atlas.unfinished import unfinished

__all__ = ["ATLAS", "MEASURES", "Atlas", "Measures", "Point", "read_atlas"]

_MOST_BYTES = 1 << 29  # a point takes 3 kB: this is more than 100,000 of them
_SHORTEST = 4  # letters of an id that stand for all of it

_Number = Annotated[float, Field(allow_inf_nan=False)]
_Amount = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
_Name = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^-\x00-\x1f][^\x00-\x1f]*$")]
"""Goes into a command line that people copy: no option, no control characters. Quotes are set where it is shown."""
_Interval = tuple[_Number, _Number]

MEASURES: Mapping[str, str] = {
    "latency_s": "s",
    "peak_memory_bytes": "B",
    "energy_j": "J",
    "model_bytes": "B",
    "sparsity": "1",
}
"""What a point costs, with its unit."""


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class Measures(_Data):
    """What one inference takes on the target, and what is stored there."""

    latency_s: _Amount
    peak_memory_bytes: _Amount
    energy_j: _Amount
    model_bytes: _Amount
    sparsity: _Share


class HeldOut(_Data):
    """Quality measured anew, on `n` samples that the search never saw."""

    quality: _Number
    quality_interval: _Interval
    n: Annotated[int, Field(ge=0)]


class Point(_Data):
    """One deployment: a recipe on a stack, its quality on `n` samples, and what it costs there.

    The search kept the luckiest of many, so `quality` flatters: where there is a `held_out` one, that is judged by.
    `cell` is the one that it holds in the archive of its target.
    """

    target: _Name
    stack: _Name
    id: _Name
    config: dict[str, Any]
    recipe: dict[str, Any]
    quality: _Number
    quality_interval: _Interval
    n: Annotated[int, Field(ge=0)]
    measures: Measures
    intervals: dict[str, _Interval]
    provenance: str
    cell: int | None = None
    held_out: HeldOut | None = None

    @property
    def judged(self) -> Point | HeldOut:
        """Whose `quality`, interval and number of samples count."""
        return self.held_out or self

    def value(self, name: str) -> float:
        """A measure, or the `quality` that it is judged by."""
        return self.judged.quality if name == "quality" else float(getattr(self.measures, name))

    def interval(self, name: str) -> tuple[float, float]:
        """Of a measure or of `quality`; what has none is exact."""
        if name == "quality":
            return self.judged.quality_interval
        value = self.value(name)
        return self.intervals.get(name, (value, value))

    @field_validator("recipe")
    @classmethod
    def _is_a_recipe(cls, fields: dict[str, Any]) -> dict[str, Any]:
        Config.model_validate(fields)
        return fields

    @field_validator("config", "recipe")
    @classmethod
    def _is_finite(cls, fields: dict[str, Any]) -> dict[str, Any]:
        if not _finite(fields):
            raise ValueError("holds a number that is not finite")
        return fields

    @model_validator(mode="after")
    def _intervals_are_ordered(self) -> Point:
        qualities = {"quality": self.quality_interval, "held-out quality": self.judged.quality_interval}
        for name, (low, high) in (self.intervals | qualities).items():
            if low > high:
                raise ValueError(f"the interval of {name} ends before it begins")
        return self


def _finite(value: Any) -> bool:
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    if isinstance(value, list):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


class _Model(_Data):
    name: str
    source: _Name
    digest: str


class _Samples(_Data):
    digest: str
    samples: int


class Atlas(_Data):
    """What a search of one model found, for one or more targets.

    `quality_floor` is what one constant answer gets on the samples that the search judged by; 0 where it says nothing.
    """

    version: int
    model: _Model
    data: _Samples
    metric: str
    quality_floor: _Number = 0.0
    seed: int
    points: tuple[Point, ...]

    @property
    def targets(self) -> list[str]:
        return sorted({point.target for point in self.points})

    def is_better_than_constant(self, point: Point) -> bool:
        """Whether `point` learnt anything that is left of it, on the samples that the floor is of."""
        return point.quality > self.quality_floor or not self.quality_floor

    def point(self, name: str, target: str | None = None) -> Point:
        """The point whose id is `name`, or begins with it where that says which.

        Raises:
            UsageError: there is none, or there are several.
        """
        there = [p for p in self.points if target in (None, p.target)]
        found = [p for p in there if p.id == name]
        if not found and len(name) >= _SHORTEST:
            found = [p for p in there if p.id.startswith(name)]
        if len(found) == 1:
            return found[0]
        where = f" on {target}" if target else ""
        if not found:
            raise UsageError(f"the atlas has no point {name}{where}", hint="`toolkit report ATLAS` shows its points")
        places = ", ".join(sorted(f"{p.id} on {p.target}" for p in found)[:4])
        raise UsageError(f"{name} is {len(found)} points: {places}", hint="say more of it, or --target")


def read_atlas(path: str | Path) -> Atlas:
    """The atlas in folder `path`, or in the file itself.

    Raises:
        InvalidInput: there is none or none yet, it is of another version, cut off, changed, or says what cannot be.
    """
    given = Path(path)
    if (pending := unfinished(given)) is not None:
        raise pending
    file = given / ATLAS if given.is_dir() else given
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise InvalidInput(f"{file} is too large for an atlas", hint="name the folder that `toolkit search` wrote")
        content = file.read_bytes()
    except OSError as error:
        raise InvalidInput(
            f"{given} is no atlas: cannot read {file.name}: {error.strerror}",
            hint="name the folder that `toolkit search` wrote",
        ) from error
    try:
        atlas = Atlas.model_validate_json(unsealed(content, str(file)))
    except ValidationError as error:
        raise _damaged(file, error) from error
    if atlas.version != VERSION:
        raise InvalidInput(
            f"{file} is of version {atlas.version}; this toolkit reads {VERSION}",
            hint="read it with the toolkit that wrote it, or search again",
        )
    if len({(p.target, p.id) for p in atlas.points}) < len(atlas.points):
        raise InvalidInput(f"{file} is damaged: it holds a point twice", hint="copy it again, or search again")
    return atlas


def _damaged(file: Path, error: ValidationError) -> InvalidInput:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    said = " ".join(first["msg"].split())[:200]
    return InvalidInput(
        f"{file} is damaged: {f'{where}: ' if where else ''}{said}", hint="copy it again, or search again"
    )
