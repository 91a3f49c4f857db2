"""Metrics as Prometheus reads them (extra `observability`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import Any

from toolkit.errors import MissingDependency
from toolkit.observability.snapshot import HistogramState, Labels, MetricsSnapshot, Series

__all__ = ["PrometheusMetrics"]


class PrometheusMetrics:
    """A collector for `prometheus_client.CollectorRegistry.register`: what `snapshot` gives at each scrape.

    Raises:
        MissingDependency: prometheus_client is not installed.
    """

    def __init__(self, snapshot: Callable[[], MetricsSnapshot]) -> None:
        if find_spec("prometheus_client") is None:
            raise MissingDependency(
                "prometheus_client is not installed", hint="pip install 'edge-toolkit[observability]'"
            )
        self._snapshot = snapshot

    def collect(self) -> Iterator[Any]:
        """Every series of every metric, with its unit in the help text."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        now = self._snapshot()
        for name, counts in now.counters.items():
            counter = CounterMetricFamily(name, f"in {now.units[name]}", labels=_names(counts))
            for labels, value in counts.items():
                counter.add_metric(_values(labels, counts), value)
            yield counter
        for name, values in now.gauges.items():
            gauge = GaugeMetricFamily(name, f"in {now.units[name]}", labels=_names(values))
            for labels, value in values.items():
                gauge.add_metric(_values(labels, values), value)
            yield gauge
        for name, states in now.histograms.items():
            histogram = HistogramMetricFamily(name, f"in {now.units[name]}", labels=_names(states))
            for labels, state in states.items():
                histogram.add_metric(_values(labels, states), buckets=_cumulated(state), sum_value=state.total)
            yield histogram


def _names(series: Series[Any]) -> list[str]:
    return sorted({name for labels in series for name, _ in labels})


def _values(labels: Labels, series: Series[Any]) -> Sequence[str]:
    """One value for each name that any series has; an empty one where this has none."""
    mine = dict(labels)
    return [mine.get(name, "") for name in _names(series)]


def _cumulated(state: HistogramState) -> list[tuple[str, float]]:
    """(upper bound, values up to it), those buckets alone that hold something, and +Inf."""
    buckets, so_far, found = state.buckets, 0, []
    for index in sorted(state.counts):
        so_far += state.counts[index]
        if index < buckets.last:
            found.append((repr(buckets.low * buckets.growth ** (index + 1)), float(so_far)))
    return [*found, ("+Inf", float(so_far))]
