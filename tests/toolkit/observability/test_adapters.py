"""What Prometheus and OpenTelemetry read of our metrics and spans."""

from __future__ import annotations

import pytest

from toolkit.errors import MissingDependency
from toolkit.observability import MetricsCollector, Tracer, opentelemetry, prometheus
from toolkit.observability.opentelemetry import OpenTelemetrySpans
from toolkit.observability.prometheus import PrometheusMetrics


def test_prometheus_reads_every_series() -> None:
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.parser import text_string_to_metric_families

    made = MetricsCollector()
    made.counter("births").inc(3, phase="gentle")
    made.counter("births").inc(2)
    made.gauge("memory_bytes", "B").set(1e6)
    wait = made.histogram("wait_s", "s", lo=1.0, hi=100.0, growth=10.0)
    for value in (0.5, 10.0, 50.0, 500.0):
        wait.observe(value)
    registry = CollectorRegistry()
    registry.register(PrometheusMetrics(made.snapshot))  # type: ignore[arg-type]
    read = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }
    assert read[("births_total", (("phase", "gentle"),))] == 3
    assert read[("births_total", (("phase", ""),))] == 2
    assert read[("memory_bytes", ())] == 1e6
    assert [read[("wait_s_bucket", (("le", le),))] for le in ("1.0", "10.0", "100.0", "+Inf")] == [1, 2, 3, 4]
    assert read[("wait_s_count", ())] == 4
    assert read[("wait_s_sum", ())] == 560.5
    made.counter("births").inc()
    assert b'births_total{phase=""} 3.0' in generate_latest(registry)


def test_opentelemetry_takes_our_spans() -> None:
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    tracer = Tracer(OpenTelemetrySpans(exporter, service="search"), seed=1)

    def work() -> None:
        with tracer.span("outer", target="jetson_nano"):
            with tracer.span("inner"):
                pass
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        work()
    inner, outer = exporter.get_finished_spans()
    assert inner.parent is not None
    assert inner.parent.span_id == outer.context.span_id
    assert inner.context.trace_id == outer.context.trace_id
    assert outer.attributes == {"target": "jetson_nano"}
    assert (inner.status.is_ok, outer.status.is_ok, outer.status.description) == (True, False, "ValueError")
    assert outer.start_time <= inner.start_time <= inner.end_time <= outer.end_time
    assert outer.resource.attributes["service.name"] == "search"


def test_what_is_not_installed_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, make in (
        (prometheus, lambda: PrometheusMetrics(MetricsCollector().snapshot)),
        (opentelemetry, lambda: OpenTelemetrySpans(None)),
    ):
        monkeypatch.setattr(module, "find_spec", lambda name: None)
        with pytest.raises(MissingDependency) as caught:
            make()
        assert "edge-toolkit[observability]" in caught.value.hint
