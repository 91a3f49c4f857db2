"""What was counted up to one moment: values that can be stored, sent, and merged in any order."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import ceil, inf, isfinite, isnan, log, sqrt
from types import MappingProxyType
from typing import Any, TypeVar

from toolkit.errors import InvalidInput

__all__ = ["Buckets", "HistogramState", "Labels", "MetricsSnapshot", "Series"]

Labels = tuple[tuple[str, str], ...]
"""Names and values, sorted by name."""

V = TypeVar("V")
Series = Mapping[Labels, V]

_SCHEMA = "toolkit.metrics/1"


@dataclass(frozen=True)
class Buckets:
    """Bounds `low · growth^i` up to `high`, in the unit of the metric; a bucket holds its upper bound. A quantile
    between the outer bounds is off by √growth − 1 of itself at most.

    Raises:
        InvalidInput: they do not grow, or hold nothing.
    """

    growth: float = 1.1
    low: float = 1e-6
    high: float = 1e4

    def __post_init__(self) -> None:
        if not (self.growth > 1 and 0 < self.low < self.high < inf):
            raise InvalidInput(
                f"no buckets from {self.low:g} to {self.high:g} that grow by {self.growth:g}",
                hint="0 < low < high, and a growth above 1",
            )

    @property
    def last(self) -> int:
        """The bucket of what is above `high`; that of what is `low` or less is -1."""
        return ceil(log(self.high / self.low) / log(self.growth))

    def index(self, value: float) -> int:
        """The bucket that `value` falls into."""
        if value <= self.low:
            return -1
        if value > self.high * self.growth:  # whose quotient may be too large for a float
            return self.last
        return min(ceil(log(value / self.low) / log(self.growth)) - 1, self.last)

    def middle(self, index: int) -> float:
        """What stands for a bucket: the geometric mean of its bounds, or the outer bound of the first and the last."""
        if index < 0:
            return self.low
        return self.high if index >= self.last else self.low * self.growth**index * sqrt(self.growth)


@dataclass(frozen=True)
class HistogramState:
    """How often values fell into each bucket.

    Args:
        buckets: Their bounds.
        counts: By index, those alone that hold something.
        total: Sum of all finite values.
        low, high: The smallest and the largest finite value; inf and -inf where there is none.
        invalid: How many values were no finite number; they are in no bucket.
    """

    buckets: Buckets = Buckets()
    counts: Mapping[int, int] = field(default_factory=dict)
    total: float = 0.0
    low: float = inf
    high: float = -inf
    invalid: int = 0

    @property
    def count(self) -> int:
        """Finite values."""
        return sum(self.counts.values())

    def quantile(self, share: float) -> float:
        """The value that a share of all, 0 to 1, do not exceed; NaN where there is none."""
        left = max(1, ceil(share * self.count))
        for index in sorted(self.counts):
            left -= self.counts[index]
            if left <= 0:
                return min(max(self.buckets.middle(index), self.low), self.high)
        return float("nan")

    def merged(self, other: HistogramState) -> HistogramState:
        """Both together.

        Raises:
            InvalidInput: their buckets differ.
        """
        if self.buckets != other.buckets:
            raise InvalidInput("histograms of different buckets cannot be merged", hint="register them alike")
        counts = {i: self.counts.get(i, 0) + other.counts.get(i, 0) for i in sorted({*self.counts, *other.counts})}
        return HistogramState(
            self.buckets, counts, self.total + other.total, min(self.low, other.low), max(self.high, other.high),
            self.invalid + other.invalid,
        )  # fmt: skip


@dataclass(frozen=True)
class MetricsSnapshot:
    """Every metric by name, and in it every series by its labels.

    Args:
        units: Of each metric, SI.
        counters: Sums.
        gauges: Last values.
        histograms: Counts by bucket.
    """

    units: Mapping[str, str] = field(default_factory=dict)
    counters: Mapping[str, Series[float]] = field(default_factory=dict)
    gauges: Mapping[str, Series[float]] = field(default_factory=dict)
    histograms: Mapping[str, Series[HistogramState]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("units", "counters", "gauges", "histograms"):
            kept = {k: _frozen(v) for k, v in sorted(getattr(self, name).items())}
            object.__setattr__(self, name, MappingProxyType(kept))

    def merged(self, other: MetricsSnapshot) -> MetricsSnapshot:
        """Both together, whichever came first: counters and histograms add, up to rounding; of two gauges with one
        name and the same labels the larger stays, since neither is the later one, and NaN above all. Give workers a
        label of their own to keep both.

        Raises:
            InvalidInput: a metric has two units, two kinds, or other buckets.
        """
        for name in sorted({*self.units} & {*other.units}):
            if self.units[name] != other.units[name] or self._kind(name) != other._kind(name):
                raise InvalidInput(
                    f"{name} is a {self._kind(name)} in {self.units[name]!r} and a {other._kind(name)} in "
                    f"{other.units[name]!r}",
                    hint="give each a name of its own",
                )
        return MetricsSnapshot(
            {**self.units, **other.units},
            _joined(self.counters, other.counters, lambda a, b: a + b),
            _joined(self.gauges, other.gauges, lambda a, b: a if isnan(a) else b if isnan(b) else max(a, b)),
            _joined(self.histograms, other.histograms, HistogramState.merged),
        )

    def to_json(self) -> str:
        """One document, the same for equal snapshots."""
        return json.dumps({
            "schema": _SCHEMA,
            "units": dict(self.units),
            "counters": {n: _rows(s, _number) for n, s in self.counters.items()},
            "gauges": {n: _rows(s, _number) for n, s in self.gauges.items()},
            "histograms": {n: _rows(s, _plain) for n, s in self.histograms.items()},
        }, allow_nan=False, separators=(",", ":"))  # fmt: skip

    @classmethod
    def from_json(cls, text: str) -> MetricsSnapshot:
        """What `to_json` wrote.

        Raises:
            InvalidInput: it is no such document.
        """
        try:
            data = json.loads(text)
            if data["schema"] != _SCHEMA:
                raise InvalidInput(f"metrics of {data['schema']!r}", hint=f"this version reads {_SCHEMA!r}")
            return cls(
                {str(n): str(u) for n, u in data["units"].items()},
                {n: _series(rows, float) for n, rows in data["counters"].items()},
                {n: _series(rows, float) for n, rows in data["gauges"].items()},
                {n: _series(rows, _state) for n, rows in data["histograms"].items()},
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, InvalidInput):
                raise
            raise InvalidInput("these are no metrics, or damaged ones", hint="write them with to_json") from error

    def _kind(self, name: str) -> str:
        if name in self.counters:
            return "counter"
        return "gauge" if name in self.gauges else "histogram" if name in self.histograms else "metric without values"


def _frozen(value: Any) -> Any:
    return MappingProxyType(dict(sorted(value.items()))) if isinstance(value, Mapping) else value


def _joined(
    one: Mapping[str, Series[V]], other: Mapping[str, Series[V]], join: Callable[[V, V], V]
) -> dict[str, Series[V]]:
    found: dict[str, dict[Labels, V]] = {name: dict(series) for name, series in one.items()}
    for name, series in other.items():
        mine = found.setdefault(name, {})
        for labels, value in series.items():
            mine[labels] = join(mine[labels], value) if labels in mine else value
    return dict(found)


def _rows(series: Series[Any], plain: Callable[[Any], Any]) -> list[Any]:
    return [[dict(labels), plain(value)] for labels, value in series.items()]


def _series(rows: Any, make: Callable[[Any], V]) -> dict[Labels, V]:
    return {tuple(sorted((str(k), str(v)) for k, v in labels.items())): make(value) for labels, value in rows}


def _number(value: float) -> float | str:
    return value if isfinite(value) else str(value)


def _plain(state: HistogramState) -> dict[str, Any]:
    return {
        "buckets": [state.buckets.growth, state.buckets.low, state.buckets.high],
        "counts": [[i, n] for i, n in sorted(state.counts.items())],
        "total": _number(state.total), "low": _number(state.low), "high": _number(state.high), "invalid": state.invalid,
    }  # fmt: skip


def _state(data: Any) -> HistogramState:
    return HistogramState(
        Buckets(*map(float, data["buckets"])), {int(i): int(n) for i, n in data["counts"]}, float(data["total"]),
        float(data["low"]), float(data["high"]), int(data["invalid"]),
    )  # fmt: skip
