"""A row as a line of text, or of a table in Markdown."""

from __future__ import annotations

from toolkit import units
from toolkit.bench.kernels.case import Row

__all__ = ["MARKDOWN_HEAD", "line", "markdown_line"]

MARKDOWN_HEAD = """| operator | shape | time [quartiles] | rate | times the floor | times as fast as | error |
|---|---|---|---|---|---|---|"""


def line(row: Row) -> str:
    head = f"{row.operator:<18} {row.shape:<40} {row.device:<8}"
    if row.time is None:
        return f"{head} {row.note}"
    return f"{head} {'  '.join(filter(None, _figures(row)))}"


def markdown_line(row: Row) -> str:
    cells = [row.operator, row.shape + (", CPU" if row.device == "cpu" else "")]
    shown = [row.note, *([""] * 4)] if row.time is None else _figures(row)
    return f"| {' | '.join([*cells, *shown])} |"


def _figures(row: Row) -> list[str]:
    """Time, rate, times the floor, ratios, error."""
    time = row.time
    assert time is not None
    rate = units.count(row.flop_s, "FLOP/s") if row.flop_s else units.count(row.bytes_s, "B/s")
    spread = f"[{units.seconds(time.lower_s)}, {units.seconds(time.upper_s)}]"
    return [
        f"{units.seconds(time.median_s)} {spread}",
        rate,
        _floor(row),
        ", ".join(_ratio(name, row) for name in row.ratios),
        f"{row.error:.1e} of {row.allowed_error:.1e}",
    ]


def _floor(row: Row) -> str:
    if row.time is None or not row.floor_s:
        return ""
    goal = f" (goal {row.goals['floor']:g})" if "floor" in row.goals else ""
    return f"{row.time.median_s / row.floor_s:.2f}{goal}"


def _ratio(name: str, row: Row) -> str:
    low, middle, high = row.ratios[name]
    goal = f", goal {row.goals[name]:g}" if name in row.goals else ""
    return f"{name} {middle:.2f}x [{low:.2f}, {high:.2f}{goal}]"
