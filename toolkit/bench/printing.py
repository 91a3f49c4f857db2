"""Rows of a benchmark as a table for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

__all__ = ["show"]


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
