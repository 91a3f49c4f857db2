"""Limits on measures as a person types them: `latency_s<=20ms`, `sparsity>=0.5`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import inf

from targets.errors import UsageError
from toolkit import units
from toolkit.search.archive import CVTArchive

__all__ = ["parse_limits", "shown"]

_LIMIT = re.compile(r"\s*(\w+)\s*(<=|>=)\s*(\S.*?)\s*")
_FIELDS = {"s": "latency_s", "B": "size_bytes", "J": "energy_j"}
"""A field of `toolkit.units` for each unit that has prefixes."""


def parse_limits(archive: CVTArchive, texts: Sequence[str]) -> dict[str, tuple[float, float]]:
    """(low, high) by measure, in SI, as `CVTArchive.query` takes them; limits on one measure hold together.

    Raises:
        UsageError: one is not `NAME<=VALUE` or `NAME>=VALUE` with a measure, or `quality`, and a value in its unit.
    """
    kinds = {measure.name: measure.unit for measure in archive.space.measures} | {"quality": "1"}
    limits: dict[str, tuple[float, float]] = {}
    for text in texts:
        match = _LIMIT.fullmatch(text)
        if match is None or match[1] not in kinds:
            raise UsageError(
                f"{text!r} is no limit on a measure", hint=f"write NAME<=VALUE or NAME>=VALUE: {', '.join(kinds)}"
            )
        value = _value(text, kinds[match[1]], match[3])
        low, high = limits.get(match[1], (-inf, inf))
        limits[match[1]] = (low, min(high, value)) if match[2] == "<=" else (max(low, value), high)
    return limits


def _value(text: str, unit: str, number: str) -> float:
    if unit in _FIELDS:
        return units.parse_quantity(_FIELDS[unit], number, what=text)
    try:
        return float(number)
    except ValueError as error:
        raise UsageError(f"{text!r}: {number!r} is no number", hint="write it as 0.5") from error


def shown(unit: str, value: float) -> str:
    """A value in its unit, for people."""
    if unit in _FIELDS:
        return units.quantity(_FIELDS[unit], value)
    return f"{value:.4g}" if unit == "1" else f"{value:.4g} {unit}"
