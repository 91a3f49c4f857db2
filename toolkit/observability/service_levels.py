"""Service levels: which share of events is to be good, and how fast what is left of the tolerance is used up.

Source: Beyer et al. 2018, The Site Reliability Workbook, chapters 2 and 5.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Literal, NamedTuple

from toolkit.errors import UsageError

__all__ = ["SLO", "Event", "SLOReport", "State", "evaluate"]

State = Literal["ok", "warning", "alert"]

_SHORT = 12  # the short window is this part of the long one


class Event(NamedTuple):
    """One measurement: of what, when in seconds from any start, and how much."""

    metric: str
    at_s: float
    value: float


@dataclass(frozen=True, kw_only=True)
class SLO:
    """An event is good where its value stands in relation `op` to `threshold`; NaN never is.

    Args:
        name: As printed.
        metric: Whose events count.
        op: "<=" or ">=".
        threshold: In the unit of the metric.
        objective: Share of events that is to be good, in (0, 1).
        window: How far back: a number of events (int), or seconds (float).
        alert_burn, warn_burn: Tolerances used up by this multiple of what would just do; on the window and on its last
            twelfth alike, so that what is over long since raises no alarm. Where the objective is so low that even bad
            events alone do not use up that much, those alone raise it.

    Raises:
        UsageError: the objective leaves no tolerance or asks for nothing, or the window is empty.
    """

    name: str
    metric: str
    op: Literal["<=", ">="]
    threshold: float
    objective: float
    window: int | float
    alert_burn: float = 14.4
    warn_burn: float = 6.0

    def __post_init__(self) -> None:
        if not 0 < self.objective < 1:
            raise UsageError(
                f"{self.name}: an objective of {self.objective:g}", hint="a share between 0 and 1, neither of them"
            )
        if self.op not in ("<=", ">="):
            raise UsageError(f"{self.name}: no relation {self.op!r}", hint="<= or >=")
        if not self.window > 0 or isnan(self.threshold):
            raise UsageError(
                f"{self.name}: a window of {self.window} and a threshold of {self.threshold}",
                hint="a window above 0, and a threshold that is a number",
            )

    def is_good(self, value: float) -> bool:
        """Whether an event of this value counts as good."""
        return value <= self.threshold if self.op == "<=" else value >= self.threshold


@dataclass(frozen=True)
class SLOReport:
    """How a service level stands.

    Args:
        total, bad: Events in the window.
        sli: Share of good ones; 1 where there was none.
        budget_remaining: Share of the tolerated bad events that is left; below 0 where more were bad.
        burn_rate: Share of bad events over the tolerated share.
        short_burn_rate: The same in the last twelfth of the window.
    """

    slo: SLO
    total: int
    bad: int
    sli: float
    budget_remaining: float
    burn_rate: float
    short_burn_rate: float
    state: State


def evaluate(slos: Iterable[SLO], events: Iterable[Event]) -> list[SLOReport]:
    """One report for each of `slos`, from all events up to the last one; events may come in any order."""
    known = sorted(events, key=lambda event: event.at_s)
    now = known[-1].at_s if known else 0.0
    return [_report(slo, [event for event in known if event.metric == slo.metric], now) for slo in slos]


def _report(slo: SLO, events: Sequence[Event], now: float) -> SLOReport:
    window = _within(events, slo.window, now)
    short = _within(window, max(1, slo.window // _SHORT) if isinstance(slo.window, int) else slo.window / _SHORT, now)
    bad = sum(not slo.is_good(event.value) for event in window)
    total, tolerated = len(window), 1 - slo.objective
    burn = bad / total / tolerated if total else 0.0
    recent = sum(not slo.is_good(event.value) for event in short) / len(short) / tolerated if short else 0.0
    return SLOReport(
        slo, total, bad,
        sli=1 - bad / total if total else 1.0,
        budget_remaining=1 - bad / (tolerated * total) if total else 1.0,
        burn_rate=burn,
        short_burn_rate=recent,
        state=_state(slo, min(burn, recent)),
    )  # fmt: skip


def _within(events: Sequence[Event], window: int | float, now: float) -> Sequence[Event]:
    """The last `window` events, or those of the last `window` seconds."""
    if isinstance(window, int):
        return events[-window:]
    return [event for event in events if event.at_s > now - window]


def _state(slo: SLO, burn: float) -> State:
    if burn >= min(slo.alert_burn, 1 / (1 - slo.objective)):
        return "alert"
    return "warning" if burn >= slo.warn_burn else "ok"
