"""One self-contained HTML file from a report document. Every string is escaped; nothing is fetched."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from toolkit import units

__all__ = ["render"]


def render(report: Mapping[str, Any]) -> str:
    """The page for the document of report.json."""
    text: str = _template().render(r=report, units=units, slowest=_slowest(report))
    return text


def _slowest(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Operators by falling latency, each with its share of the longest."""
    operators = sorted(report["estimate"]["operators"], key=lambda op: -op["latency_s"])
    longest = operators[0]["latency_s"] if operators else 1.0
    return [{**op, "share": op["latency_s"] / longest} for op in operators]


@cache
def _template() -> Any:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(files("toolkit.report").joinpath("report.html.j2").read_text("utf-8"))
