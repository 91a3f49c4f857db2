"""What a pass changed and why it was kept: a value that is printed, stored and compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import inf, isfinite
from typing import Any

__all__ = ["Decision", "Drift", "MetricChange", "Proof"]


class Decision(StrEnum):
    KEPT = "kept"
    NARROWED = "narrowed"
    REVERTED = "reverted"
    SKIPPED = "skipped"


@dataclass(frozen=True, kw_only=True)
class Drift:
    """How far one output moved. `sqnr_db` is infinite where nothing moved at all."""

    output: str
    sqnr_db: float
    max_abs_error: float

    def to_json(self) -> dict[str, Any]:
        """JSON knows no infinity: a ratio is None where it is infinite, and `identical` says on which side."""
        return {
            "output": self.output,
            "identical": self.sqnr_db == inf,
            "sqnr_db": _finite(round(self.sqnr_db, 2)),
            "max_abs_error": _finite(float(f"{self.max_abs_error:.4g}")),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Drift:
        sqnr_db, error = data["sqnr_db"], data["max_abs_error"]
        return cls(
            output=data["output"],
            sqnr_db=sqnr_db if sqnr_db is not None else inf if data["identical"] else -inf,
            max_abs_error=inf if error is None else error,
        )


@dataclass(frozen=True, kw_only=True)
class MetricChange:
    """The metric before and after, and the two-sided 90 % interval of the drop over paired samples: the drop is below
    its upper end with 95 % confidence."""

    name: str
    before: float
    after: float
    drop_interval: tuple[float, float]
    samples: int

    @property
    def drop(self) -> float:
        return self.before - self.after

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "before": round(self.before, 6),
            "after": round(self.after, 6),
            "drop_interval": [_finite(round(d, 6)) for d in self.drop_interval],
            "samples": self.samples,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> MetricChange:
        low, high = data["drop_interval"]
        return cls(**{**data, "drop_interval": (-inf if low is None else low, inf if high is None else high)})


@dataclass(frozen=True, kw_only=True)
class Proof:
    """One pass, judged.

    Args:
        name: The pass; `settings` are its fields as they were in the end.
        kind: exact, approximate or retrained; says what `drift` was measured against.
        decision: kept, narrowed, reverted or skipped, with the `reason` where it is not plainly kept.
        data: Name of the samples and how many; "synthetic" where the user gave none.
        cost_s: Predicted latency on the stack, before and after, where both are known.
        changed: Whether the pass found anything to do.
        slower: What measuring said of each attempt, in turn; empty where the prediction decided.
        size_bytes: Of the model, before and after.
        notes: What else the user should know, a sentence each.
    """

    name: str
    settings: Mapping[str, Any]
    kind: str
    decision: Decision
    reason: str = ""
    drift: tuple[Drift, ...] = ()
    metric: MetricChange | None = None
    data: str = ""
    samples: int = 0
    cost_s: tuple[float, float] | None = None
    changed: bool = True
    slower: tuple[bool, ...] = ()
    size_bytes: tuple[int, int] | None = None
    nodes: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()

    @property
    def worst_sqnr_db(self) -> float:
        return min((d.sqnr_db for d in self.drift), default=inf)

    def to_json(self) -> dict[str, Any]:
        return {
            "pass": self.name,
            "settings": dict(self.settings),
            "kind": self.kind,
            "decision": str(self.decision),
            "reason": self.reason,
            "drift": [d.to_json() for d in self.drift],
            "metric": self.metric.to_json() if self.metric else None,
            "data": self.data,
            "samples": self.samples,
            "predicted_latency_s": list(self.cost_s) if self.cost_s else None,
            "changed": self.changed,
            "measured_slower": list(self.slower),
            "size_bytes": list(self.size_bytes) if self.size_bytes else None,
            "nodes": list(self.nodes) if self.nodes else None,
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Proof:
        """Inverse of `to_json`."""
        metric = data["metric"]
        return cls(
            name=data["pass"],
            settings=data["settings"],
            kind=data["kind"],
            decision=Decision(data["decision"]),
            reason=data["reason"],
            drift=tuple(Drift.from_json(d) for d in data["drift"]),
            metric=MetricChange.from_json(metric) if metric else None,
            data=data["data"],
            samples=data["samples"],
            cost_s=_pair(data["predicted_latency_s"]),
            changed=data["changed"],
            slower=tuple(data["measured_slower"]),
            size_bytes=_pair(data["size_bytes"]),
            nodes=_pair(data["nodes"]),
            notes=tuple(data.get("notes", ())),
        )


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None


def _pair(value: list[Any] | None) -> tuple[Any, Any] | None:
    return (value[0], value[1]) if value else None
