"""Metrics, service levels and spans. Whoever is observed is handed a collector and a tracer; nothing here is global."""

from toolkit.observability.collector import MetricsCollector, NullCollector
from toolkit.observability.service_levels import SLO, Event, SLOReport, evaluate
from toolkit.observability.snapshot import HistogramState, MetricsSnapshot
from toolkit.observability.tracing import NullTracer, Span, Tracer

__all__ = [
    "SLO",
    "Event",
    "HistogramState",
    "MetricsCollector",
    "MetricsSnapshot",
    "NullCollector",
    "NullTracer",
    "SLOReport",
    "Span",
    "Tracer",
    "evaluate",
]
