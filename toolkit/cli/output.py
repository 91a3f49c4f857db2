"""Print for people (tables on stdout, progress on stderr) and for programs (one JSON document on stdout)."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

__all__ = ["EXTRAPOLATED", "progress", "say", "show_json", "show_refusals", "table"]

EXTRAPOLATED = "partly extrapolated: this network lies outside what was measured, the interval is widened"
"""Said wherever such an estimate is printed."""


def show_json(document: Mapping[str, Any]) -> None:
    """One document on stdout."""
    print(json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False))


def say(text: str = "") -> None:
    """One line on stdout."""
    print(text)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> None:
    """Columns as wide as their widest cell; those in `right` are aligned to the right."""
    cells = [list(headings), *[[str(c) for c in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headings))]
    for row in cells:
        padded = [c.rjust(w) if i in right else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))]
        print("  ".join(padded).rstrip())


def show_refusals(operators: Sequence[Mapping[str, Any]]) -> None:
    """What leaves the accelerator, by cause, with its price and its remedy; `operators` as documents hold them."""
    from targets.rewrites import refusals_by_cause
    from toolkit import units

    for found in refusals_by_cause(operators):
        kinds = ", ".join(found.op_types[:6]) + (" and others" if found.op_types[6:] else "")
        count = f" x {found.count}, the slowest" if found.count > 1 else ""
        remedy = f"; instead: {found.rewrite}" if found.rewrite else ""
        price = units.seconds(found.latency_s)
        say(f"leaves the accelerator: {kinds}{count} {found.where} ({price}): {found.reason}{remedy}")


@contextmanager
def progress(quiet: bool) -> Iterator[Callable[[str, float], None]]:
    """A bar on stderr, where that is a terminal; a function that does nothing elsewhere."""
    if quiet or not sys.stderr.isatty():
        yield lambda step, done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=1.0)
        yield lambda step, done: bar.update(task, description=step, completed=done)
