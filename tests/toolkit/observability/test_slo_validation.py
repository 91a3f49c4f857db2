"""Service levels: sequences counted by hand, windows that slide, and what may never happen."""

from __future__ import annotations

from math import nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.errors import UsageError
from toolkit.observability import SLO, Event, evaluate


def level(**changes: object) -> SLO:
    fields = {"name": "fast", "metric": "latency_s", "op": "<=", "threshold": 0.1, "objective": 0.9, "window": 100}
    return SLO(**{**fields, **changes})  # type: ignore[arg-type]


def events(*good: bool) -> list[Event]:
    return [Event("latency_s", float(i), 0.05 if ok else 0.2) for i, ok in enumerate(good)]


@pytest.mark.parametrize(("bad", "total", "remaining"), [
    (2, 20, 0.0), (3, 20, -0.5), (1, 20, 0.5), (20, 20, -9.0), (0, 20, 1.0), (0, 0, 1.0),
])  # fmt: skip
def test_a_budget_counted_by_hand(bad: int, total: int, remaining: float) -> None:
    (report,) = evaluate([level()], events(*[False] * bad, *[True] * (total - bad)))
    assert report.budget_remaining == pytest.approx(remaining)
    assert report.burn_rate == pytest.approx(bad / total / 0.1 if total else 0.0)
    assert report.sli == pytest.approx(1 - bad / total if total else 1.0)
    assert (report.total, report.bad) == (total, bad)


def test_the_window_slides() -> None:
    seen = events(*[False] * 50, *[True] * 50)
    (last_fifty,) = evaluate([level(window=50)], seen)
    assert (last_fifty.total, last_fifty.bad) == (50, 0)
    (last_ten_s,) = evaluate([level(window=10.0)], seen)
    assert (last_ten_s.total, last_ten_s.bad) == (10, 0)
    (all_of_them,) = evaluate([level(window=1000.0)], seen)
    assert all_of_them.bad == 50


def test_an_alarm_wants_both_windows() -> None:
    over = events(*[False] * 60, *[True] * 60)
    now = events(*[True] * 12, *[False] * 108)
    strict = level(objective=0.99, window=120)
    assert evaluate([strict], over)[0].state == "ok"  # it was bad, and is not any more
    assert evaluate([strict], now)[0].state == "alert"
    (some,) = evaluate([level(objective=0.9, window=120)], now)
    assert some.burn_rate == pytest.approx(9.0)
    assert some.state == "warning"


def test_nan_is_bad_and_other_metrics_do_not_count() -> None:
    seen = [Event("latency_s", 0.0, nan), Event("memory_bytes", 1.0, 99.0), Event("latency_s", 2.0, 0.1)]
    (report,) = evaluate([level()], seen)
    assert (report.total, report.bad) == (2, 1)
    (other_way,) = evaluate([level(op=">=", threshold=0.1)], seen)
    assert (other_way.total, other_way.bad) == (2, 1)


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.data())
def test_a_bad_event_never_helps(good: list[bool], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(good) - 1))
    worse = [*good[:at], False, *good[at + 1 :]]
    (before,), (after,) = evaluate([level()], events(*good)), evaluate([level()], events(*worse))
    assert after.budget_remaining <= before.budget_remaining
    assert after.burn_rate >= before.burn_rate


@given(st.permutations(events(True, False, True, True, False)))
def test_events_may_come_in_any_order(mixed: list[Event]) -> None:
    assert evaluate([level(window=3)], mixed) == evaluate([level(window=3)], events(True, False, True, True, False))


@pytest.mark.parametrize("wrong", [
    {"objective": 0.0}, {"objective": 1.0}, {"op": "<"}, {"window": 0}, {"window": -1.0}, {"threshold": nan},
])  # fmt: skip
def test_levels_that_say_nothing(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="fast: "):
        level(**wrong)
