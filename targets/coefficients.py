"""A stack's fitted costs as they stand in a file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from math import isfinite
from typing import Any

from targets.latency import CAUSES, LatencyFit, Lowering

__all__ = ["check", "document_of", "dumps", "fit_of"]

_NUMBERS = re.compile(r"\[[^\[\]]*\]")  # a row of a matrix goes on one line
_DIGITS = 5


def document_of(fit: LatencyFit) -> dict[str, Any]:
    """The fit as plain data, its numbers rounded to five digits; its lowering is the stack's."""
    data = asdict(fit)
    del data["lowering"]
    data["seen_causes"] = sorted(fit.seen_causes)
    rounded: dict[str, Any] = json.loads(json.dumps(data), parse_float=lambda text: float(f"{float(text):.{_DIGITS}g}"))
    return rounded


def fit_of(document: Mapping[str, Any], lowering: Lowering) -> LatencyFit:
    """The fit that `document_of` wrote, for a stack that makes kernels by `lowering`.

    Raises:
        KeyError, TypeError: it is none.
    """
    return LatencyFit(
        **{
            **document,
            "lowering": lowering,
            "seen_causes": frozenset(document["seen_causes"]),
            "seen_macs": tuple(document["seen_macs"]),
        }
    )


def check(fit: LatencyFit) -> None:
    """Refuse a fit that no estimate can be made with.

    Raises:
        TypeError, ValueError: it has other causes than the latency model, or a cost that is none.
    """
    if set(fit.costs) != set(CAUSES) or [len(row) for row in fit.covariance] != [len(CAUSES)] * len(CAUSES):
        raise ValueError("its costs are not those of the latency model")
    numbers = [*fit.costs.values(), fit.scatter, fit.quantile, fit.rows]
    if not all(isfinite(number) and number > 0 for number in numbers):
        raise ValueError("a number in it is not more than zero")


def dumps(document: Mapping[str, Any]) -> str:
    """JSON that a diff can be read of: sorted, a line for each number but for those of a matrix."""
    text = json.dumps(document, indent=1, sort_keys=True)
    return _NUMBERS.sub(lambda row: " ".join(row[0].split()), text) + "\n"
