"""What a configuration is made of: choices, numbers, and genes that exist only where others have certain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, isfinite, log
from typing import TypeAlias

import numpy as np

from toolkit.errors import InvalidInput

__all__ = ["STEP", "Choice", "Conditional", "Float", "Gene", "Value"]

Value: TypeAlias = bool | int | float | str

STEP = 0.1
"""One step of a Float, as a share of its range."""


@dataclass(frozen=True)
class Choice:
    """One of a few values.

    Args:
        name: Unique in a space; layers' genes as in `layers.3.bits`.
        values: All it may be, rising where `ordered`.
        ordered: Whether neighbours in `values` are alike, so that a step leads to one of them.
        group: Genes of one group are sampled and moved together; what stands behind the last point of `name` if empty.

    Raises:
        InvalidInput: no value, one twice, or one that JSON does not hold.
    """

    name: str
    values: tuple[Value, ...]
    ordered: bool = True
    group: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(self.values))
        object.__setattr__(self, "group", self.group or _group(self.name))
        odd = [v for v in self.values if not isinstance(v, bool | int | float | str) or v != v]
        if not self.values or len(set(self.values)) < len(self.values) or odd:
            raise InvalidInput(
                f"gene {self.name!r} cannot choose among {list(self.values)}",
                hint="name each value once: numbers, texts, true or false",
            )

    @property
    def lowest(self) -> Value:
        """Its first value."""
        return self.values[0]

    @property
    def allowed(self) -> str:
        """What it may be, for people."""
        return f"one of {', '.join(map(repr, self.values))}"

    def accepts(self, value: object) -> bool:
        """Whether it may be `value`."""
        return isinstance(value, bool | int | float | str) and value in self.values

    def canonical(self, value: Value) -> Value:
        """The one among equal values, such as 4 and 4.0, that is written down."""
        return self.values[self.values.index(value)]

    def sample(self, rng: np.random.Generator, weights: Sequence[float] | None = None) -> Value:
        """A value; evenly, or by `weights`, one for each of `levels`."""
        if weights is None:
            return self.values[int(rng.integers(len(self.values)))]
        return self.values[int(rng.choice(len(self.values), p=np.asarray(weights)))]

    def stepped(self, value: Value, up: bool, rng: np.random.Generator) -> Value:
        """The next value; itself at the end of an ordered one, any other of one without order."""
        at = self.values.index(value)
        if not self.ordered:
            if len(self.values) == 1:
                return value
            return self.values[(at + 1 + int(rng.integers(len(self.values) - 1))) % len(self.values)]
        return self.values[min(max(at + (1 if up else -1), 0), len(self.values) - 1)]

    def near(self, value: Value) -> list[Value]:
        """All values one step away."""
        at = self.values.index(value)
        if not self.ordered:
            return [v for v in self.values if v != value]
        return [self.values[k] for k in (at - 1, at + 1) if 0 <= k < len(self.values)]

    @property
    def levels(self) -> int:
        """Values there are."""
        return len(self.values)


@dataclass(frozen=True)
class Float:
    """A number of a range.

    Args:
        low: Smallest one.
        high: Largest one.
        log: Whether equal factors are equal steps.
        group: As of a Choice.

    Raises:
        InvalidInput: an empty range, or a logarithm of what has none.
    """

    name: str
    low: float
    high: float
    log: bool = False
    group: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "group", self.group or _group(self.name))
        if not (isfinite(self.low) and isfinite(self.high) and self.low < self.high) or (self.log and self.low <= 0):
            raise InvalidInput(
                f"gene {self.name!r} cannot go from {self.low} to {self.high}{' by factors' if self.log else ''}",
                hint="low below high, both finite; above 0 with log=True",
            )

    @property
    def lowest(self) -> Value:
        """Its low end."""
        return self.low

    @property
    def allowed(self) -> str:
        """What it may be, for people."""
        return f"a number from {self.low:g} to {self.high:g}"

    def accepts(self, value: object) -> bool:
        """Whether it may be `value`."""
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high

    def canonical(self, value: Value) -> Value:
        """As a float."""
        return float(value) + 0.0

    def sample(self, rng: np.random.Generator, weights: Sequence[float] | None = None) -> Value:
        """A value, evenly; or evenly within one of `levels` equal parts drawn by `weights`."""
        if weights is None:
            return self._at(float(rng.random()))
        part = int(rng.choice(self.levels, p=np.asarray(weights)))
        return self._at((part + float(rng.random())) / self.levels)

    def stepped(self, value: Value, up: bool, rng: np.random.Generator) -> Value:
        """About one step away: up to twice STEP of the range, cut off at its ends."""
        return self._at(self._share(value) + (1 if up else -1) * 2 * STEP * float(rng.random()))

    def near(self, value: Value) -> list[Value]:
        """The values one step away."""
        places = [self._share(value) + step for step in (-STEP, STEP)]
        return [self._at(place) for place in places if 0 <= place <= 1]

    @property
    def levels(self) -> int:
        """Parts that it is divided into where a level is drawn."""
        return 4

    def _share(self, value: Value) -> float:
        """Its place, 0 to 1."""
        low, high, number = (log(v) if self.log else v for v in (self.low, self.high, float(value)))
        return (number - low) / (high - low)

    def _at(self, share: float) -> float:
        share = min(max(share, 0.0), 1.0)
        if self.log:
            return min(max(exp(log(self.low) + share * (log(self.high) - log(self.low))), self.low), self.high)
        return min(max(self.low + share * (self.high - self.low), self.low), self.high)


Gene: TypeAlias = Choice | Float


@dataclass(frozen=True)
class Conditional:
    """A gene that exists only where others have certain values.

    Args:
        when: For each other gene, declared before, the values with which this one exists; all must hold.
    """

    gene: Gene
    when: Mapping[str, Sequence[Value]] = field(default_factory=dict)

    def holds(self, config: Mapping[str, Value]) -> bool:
        """Whether it exists in `config`."""
        return not self.when or all(name in config and config[name] in values for name, values in self.when.items())


def _group(name: str) -> str:
    return name.rpartition(".")[2]
