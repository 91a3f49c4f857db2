"""An analysis as one self-contained HTML file: plots are inline, every string is escaped, nothing is fetched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from math import log10
from typing import Any

__all__ = ["render"]

_DECADES = (-4.0, 0.0)  # of displacement, those that its plot shows


def render(document: Mapping[str, Any]) -> str:
    """The page for the document of `toolkit analyze --json`."""
    layers = [row for row in document["layers"] if row["effective_dimension"] is not None]
    text: str = _template().render(
        r=document,
        dimension=_line(layers, "effective_dimension", lambda row: row["effective_dimension"] / max(row["width"], 1)),
        turning=_line(layers, "total_turning_rad", lambda row: row["total_turning_rad"] / _most(layers)),
        displacement=_line(document["layers"], "displacement_deviations",
                           lambda row: _decade(row["displacement_deviations"])),
        broken={finding["layer"] for finding in document["findings"]},
    )  # fmt: skip
    return text


def _most(layers: Sequence[Mapping[str, Any]]) -> float:
    return max((row["total_turning_rad"] or 0.0 for row in layers), default=0.0) or 1.0


def _decade(value: float) -> float:
    low, high = _DECADES
    return (log10(max(value, 10**low)) - low) / (high - low)


def _line(rows: Sequence[Mapping[str, Any]], key: str, height: Any) -> list[dict[str, Any]]:
    """Points in a box of 1000 x 100, the rows from left to right; empty where fewer than two are known."""
    known = [row for row in rows if row[key] is not None]
    if len(known) < 2:
        return []
    return [
        {"x": f"{1000 * i / (len(known) - 1):.1f}", "y": f"{100 - 100 * min(max(height(row), 0.0), 1.0):.1f}",
         "layer": row["layer"], "value": row[key]}
        for i, row in enumerate(known)
    ]  # fmt: skip


@cache
def _template() -> Any:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(files("toolkit.geometry.analysis").joinpath("page.html.j2").read_text("utf-8"))
