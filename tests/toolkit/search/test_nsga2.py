"""Fronts and crowding against the definition and by hand; the choice among emitters against UCB1-tuned's formula."""

from __future__ import annotations

from collections import Counter
from math import inf, log, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.search.archive import CVTArchive
from toolkit.search.bandit import UCB1Tuned
from toolkit.search.behavior import BehaviorSpace
from toolkit.search.config_space import ConfigSpace
from toolkit.search.elites import Candidate
from toolkit.search.emitters import Front
from toolkit.search.genes import Choice
from toolkit.search.hypervolume import non_dominated
from toolkit.search.measures import Measure
from toolkit.search.nsga2 import crowding, crowding_order, fronts


@given(st.lists(st.tuples(*[st.integers(0, 5)] * 3), min_size=1, max_size=30))
@settings(deadline=None)
def test_fronts_are_what_is_left_when_the_ones_before_are_taken_away(rows):
    goals = np.array(rows, np.float64)
    rank = fronts(goals, np.zeros(len(goals)))
    left, number = np.arange(len(goals)), 0
    while len(left):
        free = non_dominated(goals[left])
        assert (rank[left[free]] == number).all()
        left, number = left[~free], number + 1


def test_who_breaks_less_comes_first_whatever_the_goals():
    goals = np.array([[9.0, 9.0], [1.0, 1.0], [2.0, 0.0], [5.0, 5.0]])
    assert fronts(goals, np.array([0.2, 0.0, 0.0, 0.1])).tolist() == [2, 0, 0, 1]


def test_crowding_by_hand():
    goals = np.array([[0.0, 10.0], [4.0, 3.0], [1.0, 6.0], [8.0, 0.0]])
    assert crowding(goals).tolist() == [inf, 7 / 8 + 6 / 10, 4 / 8 + 7 / 10, inf]
    assert crowding(np.ones((3, 2)))[1] == 0
    order = crowding_order(np.vstack([goals, [[0.0, 0.0]]]), np.zeros(5))
    assert order.tolist() == [0, 3, 1, 2, 4]


def test_the_population_follows_the_front():
    """Quality a - b against latency a: the front is b = 0, eight points long."""
    space = ConfigSpace([Choice("a", tuple(range(8))), Choice("b", tuple(range(8)))])
    measures = BehaviorSpace([Measure(name="latency_s", unit="s", low=0.0, high=8.0, larger_is="worse")])
    archive = CVTArchive(measures, np.array([[0.5]]), quality_min=-8.0, quality_max=8.0)
    front, rng = Front(["latency_s"], population=8), np.random.default_rng(0)
    tried, children = set(), []
    for _ in range(300):
        config, parents = front.propose(space, archive, rng)
        if space.key(config) in tried:
            continue
        tried.add(space.key(config))
        children.append((config, parents))
        front.told([Candidate(config, np.array([float(config["a"])]), float(config["a"] - config["b"]))], archive)
    late = [config["b"] for config in (front.propose(space, archive, rng).config for _ in range(100))]
    assert np.mean(late) < 1.0  # 3.5 by chance; a step off the front is 0.5 at most
    assert all(set(parents) <= tried for _, parents in children)


def test_the_bound_by_hand():
    bandit = UCB1Tuned(["a", "b"])
    assert bandit.choose(Counter()) == "a"
    assert bandit.choose(Counter(a=1)) == "b"
    for name, value in [("a", 1.0), ("a", 0.0), ("b", 0.25), ("start", 1.0)]:
        bandit.reward(name, value)
    assert (bandit.pulls, bandit.mean("a"), bandit.mean("b")) == ({"a": 2, "b": 1}, 0.5, 0.25)
    # so few pulls leave the variance at the most that there is
    bounds = {"a": 0.5 + sqrt(log(3) / 2 * 0.25), "b": 0.25 + sqrt(log(3) / 1 * 0.25)}
    assert bandit.choose(Counter()) == max(bounds, key=bounds.__getitem__) == "a"
    assert bandit.choose(Counter(a=3)) == "b"


def test_an_arm_whose_rewards_do_not_vary_is_known_sooner():
    bandit = UCB1Tuned(["steady", "varying"])
    for k in range(800):
        bandit.reward("steady", 0.5)
        bandit.reward("varying", float(k % 2))
    assert bandit.mean("steady") == bandit.mean("varying") == 0.5
    assert bandit.choose(Counter()) == "varying"


@pytest.mark.parametrize("at_once", [1, 16])
def test_the_better_arm_is_pulled_most_and_no_arm_is_forgotten(at_once):
    bandit, rng = UCB1Tuned(["poor", "good"]), np.random.default_rng(0)
    for _ in range(800 // at_once):
        waiting: Counter[str] = Counter()
        for _ in range(at_once):
            waiting[bandit.choose(waiting)] += 1
        for name in waiting.elements():
            bandit.reward(name, float(rng.random() < (0.6 if name == "good" else 0.1)))
    assert bandit.pulls["good"] > 600
    # with n pulls and no reward its bound is sqrt(log(800) / 4n): above 0.6, and so pulled, up to the fourth
    assert bandit.pulls["poor"] >= 4
