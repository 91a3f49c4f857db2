"""Spans: what ran when, inside of what, across threads, coroutines and processes.

Source of the header that travels: W3C Trace Context, recommendation of 2021.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from toolkit.errors import InvalidInput
from toolkit.rng import derive_seed

__all__ = ["Attribute", "NullTracer", "Parent", "Span", "Tracer"]

Attribute = str | int | float | bool

_HEADER = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}")


class Parent(NamedTuple):
    """What a span hangs on: ids as lower-case hex, of 32 and 16 digits."""

    trace_id: str
    span_id: str


@dataclass
class Span:
    """One piece of work; `end_ns` is None while it runs. Times are of the monotonic clock of its process."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str | None
    start_ns: int
    attributes: dict[str, Attribute] = field(default_factory=dict)
    end_ns: int | None = None
    status: Literal["ok", "error"] = "ok"
    exception: str | None = None
    """Name of the exception's class, where one left the span."""
    process: int = 0
    thread: int = 0


class Tracer:
    """Makes spans, and hands each to `exporters` when it ends.

    Args:
        exporters: Called with every finished span, in the thread that it ran in.
        seed: Ids follow from it, from `worker` and from the order of spans; None draws them.
        worker: Tells processes of one seed apart.
        clock: Nanoseconds.
    """

    def __init__(
        self, *exporters: Callable[[Span], None], seed: int | None = None, worker: str = "",
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:  # fmt: skip
        self._exporters, self._seed, self._worker, self._clock = exporters, seed, worker, clock
        self._count, self._lock = 0, threading.Lock()
        self._current: ContextVar[Parent | None] = ContextVar("span", default=None)

    @contextmanager
    def span(self, name: str, **attributes: Attribute) -> Iterator[Span]:
        """Run a block as a span: a child of the one it is written in. An exception closes it, and goes on."""
        parent = self._current.get()
        made = Span(
            name,
            trace_id=parent.trace_id if parent else self._id("trace", 16),
            span_id=self._id("span", 8),
            parent_id=parent.span_id if parent else None,
            start_ns=self._clock(),
            attributes=dict(attributes),
            process=os.getpid(),
            thread=threading.get_ident(),
        )
        token = self._current.set(Parent(made.trace_id, made.span_id))
        try:
            yield made
        except BaseException as error:
            made.status, made.exception = "error", type(error).__name__
            raise
        finally:
            self._current.reset(token)
            made.end_ns = self._clock()
            for export in self._exporters:
                export(made)

    def inject(self) -> dict[str, str]:
        """What a worker needs in order to go on with this trace; empty outside of a span."""
        parent = self._current.get()
        return {"traceparent": f"00-{parent.trace_id}-{parent.span_id}-01"} if parent else {}

    @contextmanager
    def extract(self, carrier: Mapping[str, str]) -> Iterator[None]:
        """Hang the spans of a block on what `inject` gave.

        Raises:
            InvalidInput: the header is none of its kind.
        """
        header = carrier.get("traceparent")
        if header is None:
            yield
            return
        found = _HEADER.fullmatch(header)
        if found is None or not int(found[1], 16) or not int(found[2], 16):
            raise InvalidInput(f"no trace can hang on {header!r}", hint="hand on what Tracer.inject gave")
        token = self._current.set(Parent(found[1], found[2]))
        try:
            yield
        finally:
            self._current.reset(token)

    def _id(self, kind: str, size: int) -> str:
        if self._seed is None:
            return os.urandom(size).hex()
        with self._lock:
            self._count += 1
            count = self._count
        words = [derive_seed(self._seed, kind, self._worker, count, i) for i in range(size // 8)]
        return "".join(f"{word:016x}" for word in words)


class NullTracer:
    """Spans that nobody sees: what is used where no tracer was handed in."""

    _nothing: AbstractContextManager[None] = nullcontext()

    def span(self, name: str, **attributes: Attribute) -> AbstractContextManager[None]:
        """A block as it is."""
        return self._nothing

    def inject(self) -> dict[str, str]:
        """Nothing."""
        return {}

    def extract(self, carrier: Mapping[str, str]) -> AbstractContextManager[None]:
        """A block as it is."""
        return self._nothing
