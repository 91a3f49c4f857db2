"""Where finished spans go without any service: a list, a file of lines, a trace that browsers draw."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from toolkit.errors import InvalidInput
from toolkit.observability.tracing import Span

__all__ = ["JsonLines", "chrome_trace", "read_spans"]


class JsonLines:
    """Appends each finished span to a file, a line each; use it as a context manager, or `close` it.

    Raises:
        InvalidInput: the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file: IO[str] = path.open("a", encoding="utf-8")
        except OSError as error:
            raise InvalidInput(f"cannot write {path}: {error.strerror}", hint="choose another file") from error

    def __call__(self, span: Span) -> None:
        """One whole line, in one write."""
        self._file.write(json.dumps(asdict(span), sort_keys=True) + "\n")
        self._file.flush()

    def close(self) -> None:
        """The file is complete."""
        self._file.close()

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def read_spans(path: Path) -> list[Span]:
    """What `JsonLines` wrote; a line that a killed process left half-written at the end is left out.

    Raises:
        InvalidInput: a line is no span.
    """
    spans = []
    lines = path.read_text("utf-8").splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        if number == len(lines) and not line.endswith("\n"):
            break
        try:
            spans.append(Span(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise InvalidInput(f"{path}:{number} is no span", hint="leave the file as JsonLines wrote it") from error
    return spans


def chrome_trace(spans: Iterable[Span]) -> str:
    """A document for chrome://tracing and Perfetto. Spans that still run are left out; times are in microseconds.

    Source: Trace Event Format, Google, "complete events".
    """
    events: list[dict[str, Any]] = [
        {
            "name": span.name, "ph": "X", "pid": span.process, "tid": span.thread,
            "ts": span.start_ns / 1e3, "dur": (span.end_ns - span.start_ns) / 1e3,
            "args": {**span.attributes, "status": span.status, "exception": span.exception, "span": span.span_id,
                     "parent": span.parent_id},
        }
        for span in sorted(spans, key=lambda span: (span.start_ns, span.span_id)) if span.end_ns is not None
    ]  # fmt: skip
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ms"})
