"""A verdict holds an estimate against limits: it fits, it does not, or the interval crosses the limit."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from targets.estimate import Estimate, OperatorCost
from targets.parser import Unread, load_parser, unread
from targets.rewrites import follows, rewrite_for
from targets.stack import Stack
from targets.support import load_rules
from targets.target import Target

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = [
    "Check",
    "Limits",
    "Outcome",
    "Support",
    "Verdict",
    "is_cause",
    "judge",
    "leaving_price",
    "support_of",
    "worst",
]


class Outcome(StrEnum):
    FITS = "fits"
    UNCERTAIN = "uncertain"
    DOES_NOT_FIT = "does not fit"


def worst(*outcomes: Outcome) -> Outcome:
    """The least favourable of them; `fits` where there are none."""
    order = list(Outcome)
    return max(outcomes, key=order.index, default=Outcome.FITS)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the user can afford; None where there is no limit. SI units."""

    latency_s: float | None = None
    memory_bytes: int | None = None
    energy_j: float | None = None
    size_bytes: int | None = None

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
        return worst(*(c.outcome for c in self.checks))

    def to_json(self) -> dict[str, Any]:
        return {"outcome": str(self.outcome), "checks": [{**asdict(c), "outcome": str(c.outcome)} for c in self.checks]}


def judge(estimate: Estimate, limits: Limits, *, size: tuple[float, tuple[float, float]] | None = None) -> Verdict:
    """Hold `estimate` against `limits`; `size` is that of the file and its interval, where it is known."""
    rows = [
        ("latency_s", estimate.latency_s, estimate.latency_interval_s, limits.latency_s),
        ("memory_bytes", estimate.peak_memory_bytes, estimate.memory_interval_bytes, limits.memory_bytes),
        ("energy_j", estimate.energy_j, estimate.energy_interval_j, limits.energy_j),
    ]
    if size is not None:
        rows.append(("size_bytes", *size, limits.size_bytes))
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


# ---- operators


@dataclass(frozen=True, kw_only=True)
class Support:
    """Whether the stack runs the operators where it is meant to.

    `leaving` are those that the accelerator refuses; their time is part of the latency, so they alone make nothing
    unfit. It does not fit where the accelerator gets none of the arithmetic, and is uncertain where an operator is
    `unverified` (in use, but in no published list) or `unknown` (a custom one, or one without a known cost). Where the
    stack's parser leaves one `unread`, the network runs nowhere.
    """

    operators: int
    leaving: tuple[OperatorCost, ...]
    unverified: tuple[str, ...]
    unknown: tuple[str, ...]
    idle: bool
    unread: tuple[Unread, ...] = ()

    @property
    def leaving_s(self) -> float:
        """Seconds of one inference that are spent off the accelerator because it refuses."""
        return sum(op.latency_s for op in self.leaving)

    @property
    def outcome(self) -> Outcome:
        if self.idle or self.unread:
            return Outcome.DOES_NOT_FIT
        return Outcome.UNCERTAIN if self.unverified or self.unknown else Outcome.FITS

    def to_json(self) -> dict[str, Any]:
        return {
            "outcome": str(self.outcome),
            "operators": self.operators,
            "leaving_s": self.leaving_s,
            "leaving": [
                {
                    "name": op.name,
                    "op_type": op.op_type,
                    "class": op.op_class,
                    "latency_s": op.latency_s,
                    "module": op.module,
                    "source": op.source,
                    "reason": op.reason,
                    "rewrite": rewrite_for(op.op_type, op.reason),
                }
                for op in self.leaving
            ],
            "unverified": list(self.unverified),
            "unknown": list(self.unknown),
            "unread": [asdict(node) for node in self.unread],
        }


def is_cause(op: OperatorCost) -> bool:
    """Whether the accelerator refuses `op` itself, rather than what comes before it."""
    return bool(op.reason) and not follows(op.reason)


def leaving_price(op: OperatorCost, estimate: Estimate) -> dict[str, float]:
    """What it costs that `op` leaves the accelerator, in seconds that add up to `total_s`.

    `own_s` is its arithmetic and memory traffic on the host, `copies_s` the copies over the link, `dragged_s` the time
    of the operators that leave because it does: on an accelerator that runs one partition, all that come after.
    """
    dragged = [other for other in estimate.fallbacks if follows(other.reason)]
    copies_s = _copies_s(op) + sum(map(_copies_s, dragged))
    total_s = op.latency_s + sum(other.latency_s for other in dragged)
    own_s = op.latency_s - _copies_s(op)
    return {"own_s": own_s, "copies_s": copies_s, "dragged_s": total_s - own_s - copies_s, "total_s": total_s}


def _copies_s(op: OperatorCost) -> float:
    return op.terms.get("transfer", 0.0)


def support_of(estimate: Estimate, stack: Stack, model: ir.Model) -> Support:
    """Where the operators of `estimate`, which was made of `model` for `stack`, run."""
    held = [op for op in estimate.operators if op.place == stack.rules] if stack.rules else []
    doubtful = load_rules(stack.rules).unverified if stack.rules else frozenset()
    return Support(
        operators=len(estimate.operators),
        leaving=estimate.fallbacks,
        unverified=tuple(sorted({op.op_type for op in held} & doubtful)),
        unknown=tuple(sorted({op.op_type for op in estimate.operators if op.op_class == "unknown"})),
        idle=bool(stack.rules and estimate.macs and not any(op.macs for op in held)),
        unread=tuple(unread(model, load_parser(stack.parser))) if stack.parser else (),
    )
