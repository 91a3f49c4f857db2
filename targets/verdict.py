"""A verdict holds an estimate against limits: it fits, it does not, or the interval crosses the limit."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from targets.estimate import Estimate
from targets.target import Target

__all__ = ["Check", "Limits", "Outcome", "Verdict", "judge"]


class Outcome(StrEnum):
    FITS = "fits"
    UNCERTAIN = "uncertain"
    DOES_NOT_FIT = "does not fit"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the user can afford; None where there is no limit. SI units."""

    latency_s: float | None = None
    memory_bytes: int | None = None
    energy_j: float | None = None

    @classmethod
    def of(cls, target: Target) -> Limits:
        """The limits that a device's profile states."""
        return cls(latency_s=target.latency_target_s, memory_bytes=target.usable_memory_bytes)


@dataclass(frozen=True, kw_only=True)
class Check:
    """One quantity against its limit; `quantity` is the field of Limits, so it carries the unit."""

    quantity: str
    value: float
    interval: tuple[float, float]
    limit: float
    outcome: Outcome


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The outcome of every check, and the worst of them."""

    checks: tuple[Check, ...]

    @property
    def outcome(self) -> Outcome:
        order = list(Outcome)
        return max((c.outcome for c in self.checks), key=order.index, default=Outcome.FITS)

    def to_json(self) -> dict[str, Any]:
        return {"outcome": str(self.outcome), "checks": [{**asdict(c), "outcome": str(c.outcome)} for c in self.checks]}


def judge(estimate: Estimate, limits: Limits) -> Verdict:
    """Hold `estimate` against `limits`."""
    rows = (
        ("latency_s", estimate.latency_s, estimate.latency_interval_s, limits.latency_s),
        ("memory_bytes", estimate.peak_memory_bytes, estimate.memory_interval_bytes, limits.memory_bytes),
        ("energy_j", estimate.energy_j, estimate.energy_interval_j, limits.energy_j),
    )
    return Verdict(
        checks=tuple(
            Check(quantity=name, value=value, interval=interval, limit=limit, outcome=_outcome(interval, limit))
            for name, value, interval, limit in rows
            if limit is not None
        )
    )


def _outcome(interval: tuple[float, float], limit: float) -> Outcome:
    low, high = interval
    if high <= limit:
        return Outcome.FITS
    return Outcome.DOES_NOT_FIT if low > limit else Outcome.UNCERTAIN
