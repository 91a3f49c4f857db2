"""Counters, gauges and histograms, and device scalars that are read back all at once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import inf, isfinite
from threading import Lock
from typing import TYPE_CHECKING, Protocol

from toolkit.errors import UsageError
from toolkit.observability.snapshot import Buckets, HistogramState, Labels, MetricsSnapshot

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Counter", "Gauge", "Histogram", "MetricsCollector", "NullCollector"]

_NAME = re.compile(r"[a-z][a-z0-9_]*")


class _Takes(Protocol):
    def take(self, value: float, labels: Labels) -> None: ...


class Counter:
    """A sum that only grows."""

    def __init__(self, name: str, lock: Lock) -> None:
        self.name, self._lock = name, lock
        self.values: dict[Labels, float] = {}

    def inc(self, n: float = 1, **labels: str) -> None:
        """Add `n`.

        Raises:
            UsageError: it is negative or not finite.
        """
        self.take(n, _labels(labels))

    def take(self, value: float, labels: Labels) -> None:
        if not 0 <= value < inf:
            raise UsageError(f"{self.name} cannot grow by {value}", hint="count with numbers from 0; a gauge may fall")
        with self._lock:
            self.values[labels] = self.values.get(labels, 0.0) + value


class Gauge:
    """A value that is what it was set to last."""

    def __init__(self, name: str, lock: Lock) -> None:
        self.name, self._lock = name, lock
        self.values: dict[Labels, float] = {}

    def set(self, x: float, **labels: str) -> None:
        """Replace the value."""
        self.take(x, _labels(labels))

    def take(self, value: float, labels: Labels) -> None:
        with self._lock:
            self.values[labels] = float(value)


class Histogram:
    """How values are spread, in buckets that grow by a constant factor."""

    def __init__(self, name: str, lock: Lock, buckets: Buckets) -> None:
        self.name, self.buckets, self._lock = name, buckets, lock
        self.values: dict[Labels, _Tally] = {}

    def observe(self, x: float, **labels: str) -> None:
        """Count one value. What is no finite number is counted as invalid."""
        self.take(x, _labels(labels))

    def take(self, value: float, labels: Labels) -> None:
        with self._lock:
            self.values.setdefault(labels, _Tally()).add(float(value), self.buckets)


class _Tally:
    """A histogram while it grows."""

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.total, self.low, self.high, self.invalid = 0.0, inf, -inf, 0

    def add(self, value: float, buckets: Buckets) -> None:
        if not isfinite(value):
            self.invalid += 1
            return
        index = buckets.index(value)
        self.counts[index] = self.counts.get(index, 0) + 1
        self.total += value
        self.low, self.high = min(self.low, value), max(self.high, value)

    def state(self, buckets: Buckets) -> HistogramState:
        return HistogramState(buckets, dict(self.counts), self.total, self.low, self.high, self.invalid)


class MetricsCollector:
    """Where one training or search counts.

    Args:
        flush_every: Steps between two readings of deferred device values: one copy from the device for all of them.

    Raises:
        UsageError: `flush_every` is below 1.
    """

    def __init__(self, flush_every: int = 50) -> None:
        if flush_every < 1:
            raise UsageError(f"a flush every {flush_every} steps", hint="1 or more")
        self.flush_every = flush_every
        self._lock = Lock()
        self._units: dict[str, str] = {}
        self._metrics: dict[str, Counter | Gauge | Histogram] = {}
        self._deferred: list[tuple[_Takes, Tensor, Labels]] = []
        self._steps = 0

    def counter(self, name: str, unit: str = "1") -> Counter:
        """The counter called `name`, made where there is none.

        Raises:
            UsageError: the name is not of lower-case letters, digits and _, or stands for another kind or unit.
        """
        found = self._registered(name, unit, Counter(name, self._lock))
        assert isinstance(found, Counter)
        return found

    def gauge(self, name: str, unit: str) -> Gauge:
        """See `counter`."""
        found = self._registered(name, unit, Gauge(name, self._lock))
        assert isinstance(found, Gauge)
        return found

    def histogram(
        self, name: str, unit: str, *, growth: float = 1.1, lo: float = 1e-6, hi: float = 1e4
    ) -> Histogram:  # fmt: skip
        """See `counter`; bounds in `unit`."""
        found = self._registered(name, unit, Histogram(name, self._lock, Buckets(growth, lo, hi)))
        assert isinstance(found, Histogram)
        return found

    def defer(self, metric: Counter | Gauge | Histogram, tensor: Tensor, **labels: str) -> None:
        """Give `metric` a scalar that is still on its way; it is read at the next `flush`. Its graph is let go.

        It is not copied: what is written into it until then, as into a static output of a CUDA graph, is what is read.
        """
        with self._lock:
            self._deferred.append((metric, tensor.detach().reshape(()), _labels(labels)))

    def step(self) -> None:
        """One step is done: flushes when it is time."""
        with self._lock:
            self._steps += 1
            is_time = self._steps % self.flush_every == 0
        if is_time:
            self.flush()

    def flush(self) -> None:
        """Read all deferred values, with one copy for each device that holds some."""
        with self._lock:
            waiting, self._deferred = self._deferred, []
        if not waiting:
            return
        import torch

        places: dict[torch.device, list[int]] = {}
        for i, (_, tensor, _) in enumerate(waiting):
            places.setdefault(tensor.device, []).append(i)
        values = [0.0] * len(waiting)
        for members in places.values():
            read = torch.stack([waiting[i][1].double() for i in members]).tolist()
            for i, value in zip(members, read, strict=True):
                values[i] = value
        for (metric, _, labels), value in zip(waiting, values, strict=True):
            metric.take(value, labels)

    def snapshot(self) -> MetricsSnapshot:
        """All that was counted and read so far; what is deferred stays so."""
        with self._lock:
            counters = {n: dict(m.values) for n, m in self._metrics.items() if isinstance(m, Counter)}
            gauges = {n: dict(m.values) for n, m in self._metrics.items() if isinstance(m, Gauge)}
            histograms = {
                n: {labels: tally.state(m.buckets) for labels, tally in m.values.items()}
                for n, m in self._metrics.items() if isinstance(m, Histogram)
            }  # fmt: skip
            return MetricsSnapshot(dict(self._units), counters, gauges, histograms)

    def _registered(
        self, name: str, unit: str, made: Counter | Gauge | Histogram
    ) -> Counter | Gauge | Histogram:  # fmt: skip
        if not _NAME.fullmatch(name):
            raise UsageError(f"{name!r} is no name for a metric", hint="lower-case letters, digits and _, as loss_nats")
        with self._lock:
            found = self._metrics.setdefault(name, made)
            known = self._units.setdefault(name, unit)
        if type(found) is not type(made) or known != unit:
            raise UsageError(
                f"{name} is a {type(found).__name__.lower()} in {known!r}, not a {type(made).__name__.lower()} in "
                f"{unit!r}",
                hint="give the other one a name of its own",
            )
        if isinstance(found, Histogram) and isinstance(made, Histogram) and found.buckets != made.buckets:
            raise UsageError(f"{name} has other buckets: {found.buckets}", hint="register it alike everywhere")
        return found


def _labels(labels: Mapping[str, str]) -> Labels:
    return tuple(sorted((name, str(value)) for name, value in labels.items())) if labels else ()


class _Nothing:
    """A metric that nobody reads."""

    def inc(self, n: float = 1, **labels: str) -> None: ...
    def set(self, x: float, **labels: str) -> None: ...
    def observe(self, x: float, **labels: str) -> None: ...


_NOTHING = _Nothing()


class NullCollector:
    """Takes everything and keeps nothing: what is used where no collector was handed in."""

    def counter(self, name: str, unit: str = "1") -> _Nothing:
        """A counter that counts nothing; the others likewise."""
        return _NOTHING

    def gauge(self, name: str, unit: str) -> _Nothing:
        """See `counter`."""
        return _NOTHING

    def histogram(self, name: str, unit: str, *, growth: float = 1.1, lo: float = 1e-6, hi: float = 1e4) -> _Nothing:
        """See `counter`."""
        return _NOTHING

    def defer(self, metric: object, tensor: Tensor, **labels: str) -> None:
        """The value is never read."""

    def step(self) -> None:
        """Nothing is flushed."""

    def flush(self) -> None:
        """Nothing is read."""

    def snapshot(self) -> MetricsSnapshot:
        """An empty one."""
        return MetricsSnapshot()
