"""Refusals of an accelerator, gathered by cause, and what to write instead where a remedy is known: `rewrites.toml`."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

__all__ = ["Refusal", "follows", "refusals_by_cause", "rewrite_for"]

_FOLLOWS = "it comes after"


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Operators that leave the accelerator for one reason; `where` names the slowest by source line or name."""

    op_types: tuple[str, ...]
    count: int
    where: str
    latency_s: float
    reason: str
    rewrite: str

    @property
    def follows(self) -> bool:
        """They leave only because one before them does."""
        return follows(self.reason)


def follows(reason: str) -> bool:
    """Whether an operator with this `reason` leaves only because one before it does."""
    return reason.startswith(_FOLLOWS)


def refusals_by_cause(operators: Iterable[Mapping[str, Any]]) -> list[Refusal]:
    """Gather rows of an estimate's document that have a `reason`: causes first, what follows from them last."""
    gathered: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for op in operators:
        if reason := op["reason"]:
            own = "" if follows(reason) else op["op_type"]
            gathered.setdefault((own, reason), []).append(op)
    found = [_gather(rows) for rows in gathered.values()]
    return sorted(found, key=lambda refusal: (refusal.follows, -refusal.latency_s))


def _gather(rows: list[Mapping[str, Any]]) -> Refusal:
    slowest = max(rows, key=lambda op: op["latency_s"])
    return Refusal(
        op_types=tuple(dict.fromkeys(op["op_type"] for op in rows)),
        count=len(rows),
        where=slowest.get("module") or slowest["source"] or slowest["name"],
        latency_s=sum(op["latency_s"] for op in rows),
        reason=slowest["reason"],
        rewrite=rewrite_for(slowest["op_type"], slowest["reason"]),
    )


def rewrite_for(op_type: str, reason: str) -> str:
    """The remedy for an operator that was refused for `reason`, or an empty string where none is known."""
    tables = _tables()
    for part, remedy in tables["reasons"].items():
        if part in reason:
            return remedy
    return tables["operators"].get(op_type, "")


@cache
def _tables() -> Mapping[str, Mapping[str, str]]:
    return tomllib.loads(files("targets").joinpath("rewrites.toml").read_text("utf-8"))
