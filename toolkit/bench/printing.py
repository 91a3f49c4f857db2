"""What a benchmark found, as tables for people or as one JSON document."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from toolkit.calibration.setting import processor

__all__ = ["report", "show"]


def report(
    name: str, found: Mapping[str, Sequence[Mapping[str, Any]]], verdicts: Iterable[str], *, as_json: bool
) -> None:
    """Print the rows of each part, on what they were taken, and to people the verdicts."""
    about = {"processor": processor(), "torch": torch.__version__, "load": os.getloadavg()[0]}
    if as_json:
        print(json.dumps({"schema": f"toolkit.bench.{name}/1", "about": about, **found}, indent=1))
        return
    print(", ".join(f"{what} {value}" for what, value in about.items()))
    for part, rows in found.items():
        show(part, rows)
    for line in verdicts:
        print(line)


def show(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print `rows`, which have the same names; what is empty in all of them is left out."""
    table = Table(title=title, title_justify="left")
    columns = [name for name in rows[0] if any(row[name] not in ("", None) for row in rows)]
    for name in columns:
        table.add_column(name.replace("_", " "))
    for row in rows:
        table.add_row(*(_text(row[name]) for name in columns))
    Console(width=200).print(table)


def _text(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return " to ".join(map(_text, value))
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else f"{value:,}" if type(value) is int else str(value)
