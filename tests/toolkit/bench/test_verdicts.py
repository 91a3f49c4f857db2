"""Whether ours is worse: intervals that hold what they say, and what is compared with what."""

from __future__ import annotations

import numpy as np
import pytest

from passes.dataset import Array
from toolkit.bench.verdicts import Measured, Verdict, paired_mean, ratio_of_medians, verdicts
from toolkit.rng import generator

pytestmark = pytest.mark.slow


def measured(way: str, right: Array, size_bytes: int = 100, seconds: float = 1.0) -> Measured:
    rounds = seconds * (1 + 0.01 * generator(0, "rounds", way).standard_normal(50))
    return Measured(way=way, right=right, size_bytes=size_bytes, durations_s=rounds.tolist())


def by_peer(ours: Measured, *others: Measured) -> dict[tuple[str, str], Verdict]:
    return {(v.respect, v.peer): v for v in verdicts(ours, others)}


def test_the_interval_holds_the_mean_nineteen_times_in_twenty() -> None:
    rng = generator(0, "intervals")
    held = []
    for _ in range(2000):
        differences = rng.choice([-1.0, 0.0, 1.0], 400, p=[0.05, 0.85, 0.1])
        _, (low, high) = paired_mean(differences, np.zeros(400))
        held.append(low <= 0.05 <= high)
    assert 0.93 < np.mean(held) < 0.97


def test_ratios_are_those_of_the_same_round() -> None:
    """A machine that is ten times slower for a while is so for both."""
    slowness = np.where(np.arange(60) < 25, 10.0, 1.0)
    ratio, (low, high) = ratio_of_medians(list(slowness * 0.9), list(slowness))
    assert (ratio, low, high) == pytest.approx((0.9, 0.9, 0.9))


def test_equal_answers_are_not_worse() -> None:
    right = np.array([1.0, 0.0, 1.0, 1.0])
    found = by_peer(measured("ours", right), measured("theirs", right))
    assert found["right answers", "theirs"].interval == (0.0, 0.0)
    assert not any(verdict.worse for verdict in found.values() if verdict.respect != "latency")


def test_fewer_right_answers_are_worse_where_the_interval_says_so() -> None:
    ours, theirs = np.repeat([1.0, 0.0], [80, 20]), np.ones(100)
    assert by_peer(measured("ours", ours), measured("theirs", theirs))["right answers", "theirs"].worse
    ours[80:] = 1.0
    ours[0] = 0.0
    assert not by_peer(measured("ours", ours), measured("theirs", theirs))["right answers", "theirs"].worse


def test_bytes_that_were_paid_for_with_answers_are_told_apart() -> None:
    ours = measured("ours", np.ones(100), 100, 1.0)
    wrong = measured("wrong", np.repeat([1.0, 0.0], [50, 50]), 50, 0.5)
    as_right = measured("as right", np.ones(100), 120, 1.2)
    found = by_peer(ours, wrong, as_right)
    for respect in ("bytes", "latency"):
        assert found[respect, "wrong"].worse
        assert not found[respect, "wrong"].as_right
        assert not found[respect, "as right"].worse
        assert found[respect, "as right"].as_right


def test_without_others_there_is_nothing_to_say() -> None:
    assert not list(verdicts(measured("ours", np.ones(3)), []))
