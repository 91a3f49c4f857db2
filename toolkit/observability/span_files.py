"""Where finished spans go without any service: a list, a file of lines, a trace that browsers draw."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import IO, Any

from toolkit.errors import InvalidInput
from toolkit.observability.tracing import Attribute, Span

__all__ = ["JsonLines", "chrome_trace", "read_spans"]


class JsonLines:
    """Appends each finished span to a file, a line each; use it as a context manager, or `close` it.

    What a killed process left of a last line is cut off first, so that the next span begins a line of its own.

    Raises:
        InvalidInput: the file cannot be written, or is another one.
    """

    def __init__(self, path: Path) -> None:
        try:
            _cut_torn_end(path)
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


def _cut_torn_end(path: Path) -> None:
    """
    Raises:
        InvalidInput: it ends in what was no span: another file, which stays as it is.
    """
    if not path.is_file():
        return
    with path.open("r+b") as file:
        content = file.read()
        end = content.rfind(b"\n") + 1
        if content[end:] and not content[end:].startswith(b"{"):
            raise InvalidInput(f"{path} is no file of spans", hint="choose another file")
        file.truncate(end)


def read_spans(path: Path) -> list[Span]:
    """What `JsonLines` wrote; a line that a killed process left half-written at the end is left out.

    Raises:
        InvalidInput: the file cannot be read, or a line is no span.
    """
    spans = []
    try:
        lines = path.read_text("utf-8").splitlines(keepends=True)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"cannot read {path}: {error}", hint="give a file that JsonLines wrote") from error
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
    NaN and infinity, which JSON does not have, are texts.

    Source: Trace Event Format, Google, "complete events".
    """
    events: list[dict[str, Any]] = [
        {
            "name": span.name, "ph": "X", "pid": span.process, "tid": span.thread,
            "ts": span.start_ns / 1e3, "dur": (span.end_ns - span.start_ns) / 1e3,
            "args": {**{name: _number(value) for name, value in span.attributes.items()}, "status": span.status,
                     "exception": span.exception, "span": span.span_id, "parent": span.parent_id},
        }
        for span in sorted(spans, key=lambda span: (span.start_ns, span.span_id)) if span.end_ns is not None
    ]  # fmt: skip
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}, allow_nan=False)


def _number(value: Attribute) -> Attribute:
    return str(value) if isinstance(value, float) and not isfinite(value) else value
