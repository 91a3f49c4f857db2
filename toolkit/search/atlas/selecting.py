"""Choose from an atlas: the best point within limits, what is as good, and where none fits the nearest miss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from targets.errors import UnknownName
from targets.target import load_target
from targets.verdict import Check, Limits, Outcome, worst
from toolkit.search.atlas.points import Point

__all__ = ["LIMITS", "Miss", "Selection", "device_limits", "excess", "judge_point", "select"]

LIMITS: Mapping[str, str] = {
    "latency_s": "latency_s",
    "memory_bytes": "peak_memory_bytes",
    "energy_j": "energy_j",
    "size_bytes": "model_bytes",
    "quality": "quality",
}
"""What may be limited, under the name that `toolkit check` uses, with the measure it is held against. All are upper
limits but that of `quality`."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The best point within limits.

    Points that fit for certain come first, then those whose values are within while an interval crosses a limit.
    Where it is the other way round, value beyond and interval across, `toolkit check` says uncertain too; such a point
    is not taken. Among each, the best is the one whose quality is largest at the lower end of its interval, so that
    luck on few samples does not win.

    Args:
        outcome: Whether it fits, or may fit.
        fitting: How many fit for certain.
        uncertain: Of how many an interval crosses a limit, wherever their values are.
        ties: Points that fit as well and are not significantly worse, best first; the first is the runner-up.
        bolder: Where the best fits for certain, a better one that does by its values, if not by its intervals.
    """

    point: Point
    checks: tuple[Check, ...]
    outcome: Outcome
    fitting: int
    uncertain: int
    ties: tuple[Point, ...] = ()
    bolder: Point | None = None

    @property
    def runner_up(self) -> Point | None:
        return self.ties[0] if self.ties else None


@dataclass(frozen=True, kw_only=True)
class Miss:
    """No point has its values within the limits.

    The nearest is the one whose worst excess, as a share of its limit, is smallest; of `among`, the intervals of
    `uncertain` reach within.
    """

    point: Point
    checks: tuple[Check, ...]
    among: int
    uncertain: int


def select(points: Sequence[Point], limits: Mapping[str, float], *, strict: bool = False) -> Selection | Miss:
    """The best of `points`, one or more, within `limits`.

    Args:
        limits: By name in `LIMITS`, in SI.
        strict: Take only what fits for certain.
    """
    ranked = sorted(points, key=_rank)
    judged = [(point, judge_point(point, limits)) for point in ranked]
    fitting = [p for p, checks in judged if _outcome(checks) is Outcome.FITS]
    uncertain = [(p, checks) for p, checks in judged if _outcome(checks) is Outcome.UNCERTAIN]
    likely = [p for p, checks in uncertain if all(_is_within(c.quantity, c.value, c.limit) for c in checks)]
    eligible = fitting or ([] if strict else likely)
    if not eligible:
        nearest, checks = min(judged, key=lambda pair: max(excess(check, strict=strict) for check in pair[1]))
        return Miss(point=nearest, checks=checks, among=len(points), uncertain=len(uncertain))
    best = eligible[0]
    return Selection(
        point=best,
        checks=judge_point(best, limits),
        outcome=Outcome.FITS if fitting else Outcome.UNCERTAIN,
        fitting=len(fitting),
        uncertain=len(uncertain),
        ties=tuple(p for p in eligible[1:] if not _is_significant(best, p)),
        bolder=likely[0] if fitting and likely and _rank(likely[0]) < _rank(best) else None,
    )


def device_limits(target: str) -> dict[str, float]:
    """What the profile of `target` states, as `toolkit check` holds it; nothing where there is no such target here."""
    try:
        stated = Limits.of(load_target(target))
    except UnknownName:
        return {}
    found = {"latency_s": stated.latency_s, "memory_bytes": stated.memory_bytes}
    return {name: value for name, value in found.items() if value is not None}


def judge_point(point: Point, limits: Mapping[str, float]) -> tuple[Check, ...]:
    """Every limit with its outcome: an interval that crosses it leaves it uncertain, as in `targets.verdict.judge`."""
    return tuple(
        Check(
            quantity=name,
            value=point.value(measure),
            interval=point.interval(measure),
            limit=limits[name],
            outcome=_held(name, point.interval(measure), limits[name]),
        )
        for name, measure in LIMITS.items()
        if name in limits
    )


def excess(check: Check, *, strict: bool = False) -> float:
    """By which share of its limit the value is beyond it, or with `strict` the far end of its interval."""
    if check.quantity == "quality":
        return (check.limit - (check.interval[0] if strict else check.value)) / (abs(check.limit) or 1.0)
    return ((check.interval[1] if strict else check.value) - check.limit) / check.limit


def _outcome(checks: Sequence[Check]) -> Outcome:
    return worst(*(check.outcome for check in checks))


def _held(name: str, interval: tuple[float, float], limit: float) -> Outcome:
    ends = [_is_within(name, end, limit) for end in interval]
    return Outcome.FITS if all(ends) else Outcome.UNCERTAIN if any(ends) else Outcome.DOES_NOT_FIT


def _is_within(name: str, value: float, limit: float) -> bool:
    return value >= limit if name == "quality" else value <= limit


def _rank(point: Point) -> tuple[float, float, float, str, str]:
    """Best first; of equals the faster, then the smaller id."""
    return -point.interval("quality")[0], -point.value("quality"), point.measures.latency_s, point.id, point.stack


def _is_significant(better: Point, other: Point) -> bool:
    """Whether the difference of two qualities is larger than that of chance, at the level of their intervals.

    Half widths add in squares, as for independent samples. Both were measured on the same ones, which correlates them:
    so this asks for more than a paired test would, and calls a difference significant too seldom, never too often.
    """
    difference = better.value("quality") - other.value("quality")
    below = better.value("quality") - better.interval("quality")[0]
    above = other.interval("quality")[1] - other.value("quality")
    return difference > 0 and difference * difference > below * below + above * above
