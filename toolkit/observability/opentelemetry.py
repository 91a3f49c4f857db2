"""Spans as OpenTelemetry's exporters take them (extra `observability`)."""

from __future__ import annotations

import time
from importlib.util import find_spec
from typing import Any

from toolkit.errors import MissingDependency
from toolkit.observability.tracing import Span

__all__ = ["OpenTelemetrySpans"]


class OpenTelemetrySpans:
    """Hands every finished span to an exporter of OpenTelemetry, with the time of day in place of the process's clock.

    Args:
        exporter: An `opentelemetry.sdk.trace.export.SpanExporter`.
        service: What calls itself the sender.

    Raises:
        MissingDependency: opentelemetry-sdk is not installed.
    """

    def __init__(self, exporter: Any, service: str = "toolkit") -> None:
        if find_spec("opentelemetry") is None or find_spec("opentelemetry.sdk") is None:
            raise MissingDependency(
                "opentelemetry-sdk is not installed", hint="pip install 'edge-toolkit[observability]'"
            )
        from opentelemetry.sdk.resources import Resource

        self._exporter, self._resource = exporter, Resource({"service.name": service})
        self._offset_ns = time.time_ns() - time.monotonic_ns()

    def __call__(self, span: Span) -> None:
        """Export one span."""
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.trace import Status, StatusCode

        assert span.end_ns is not None
        self._exporter.export([
            ReadableSpan(
                span.name,
                context=_context(span.trace_id, span.span_id),
                parent=None if span.parent_id is None else _context(span.trace_id, span.parent_id),
                resource=self._resource,
                attributes=span.attributes,
                status=Status(StatusCode.ERROR if span.status == "error" else StatusCode.OK, span.exception),
                start_time=span.start_ns + self._offset_ns,
                end_time=span.end_ns + self._offset_ns,
            )
        ])  # fmt: skip


def _context(trace_id: str, span_id: str) -> Any:
    from opentelemetry.trace import SpanContext, TraceFlags

    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=TraceFlags(1))
