"""Expected gains against their definition by sampling, a model of quality that depends on what was told alone, and who
leads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolkit.search.archive import CVTArchive
from toolkit.search.behavior import BehaviorSpace
from toolkit.search.config_space import ConfigSpace
from toolkit.search.deployment.guided import GuidedFront
from toolkit.search.deployment.predicted import Predictor
from toolkit.search.deployment.prices import MEASURES
from toolkit.search.elites import Candidate
from toolkit.search.genes import Choice
from toolkit.search.hypervolume import hypervolume, non_dominated
from toolkit.search.leading import Leading
from toolkit.search.measures import Measure

SPACE = ConfigSpace([Choice("a", tuple(range(12))), Choice("b", tuple(range(12)))])
AXES = BehaviorSpace([Measure(name="latency_s", unit="s", low=1.0, high=16.0, transform="log", larger_is="worse")])


class Priced:
    """Latency rises with the first gene."""

    def measures(self, configs):
        found = np.zeros((len(configs), len(MEASURES)))
        found[:, 0] = [1.0 + config["a"] for config in configs]
        return found


def candidate(a, b, quality=None, violation=0.0):
    quality = (a - b) / 12 if quality is None else quality
    return Candidate({"a": a, "b": b}, np.array([1.0 + a]), quality, violation=violation)


def archive():
    return CVTArchive(AXES, np.array([[0.25], [0.75]]), quality_min=0.0, quality_max=1.0)


def told(emitter, candidates):
    kept = archive()
    kept.add(candidates)
    emitter.told(candidates, kept)
    return kept


def test_expected_gains_are_the_mean_growth_of_the_volume():
    emitter = GuidedFront(Priced(), {}, Predictor(), "latency_s")
    known = [candidate(a, 0, q) for a, q in ((1, 0.2), (3, 0.5), (7, 0.7), (4, 0.3), (11, 0.71))]
    kept = told(emitter, [*known, candidate(0, 0, 0.99, violation=0.1)])
    measures = Priced().measures([{"a": a} for a in (0, 2, 5, 9, 11)])
    mean, deviation = np.array([0.1, 0.5, 0.6, 0.9, 0.2]), np.array([0.1, 0.2, 0.05, 0.3, 0.01])
    gains = emitter._gains(kept, measures, mean, deviation)

    def place(seconds):
        return 1 - np.log(seconds) / np.log(16)

    front = np.array([[c.quality, place(c.measures[0])] for c in known])
    before = hypervolume(front, np.zeros(2))
    rng = np.random.default_rng(0)
    for k in range(5):
        drawn = mean[k] + deviation[k] * rng.standard_normal(1000)
        grown = [hypervolume(np.vstack([front, [q, place(measures[k, 0])]]), np.zeros(2)) - before for q in drawn]
        # four standard errors: one chance in 16,000 a case
        assert gains[k] == pytest.approx(np.mean(grown), abs=4 * np.std(grown) / 1000**0.5 + 1e-9)


def test_the_next_proposal_adds_to_the_last_one():
    rng = np.random.default_rng(0)
    emitter = GuidedFront(Priced(), {}, Predictor(), "latency_s")
    pairs = {(int(a), int(b)) for a, b in rng.integers(0, 12, (60, 2))}
    kept = told(emitter, [candidate(a, b) for a, b in sorted(pairs)])
    asked = [emitter.propose(SPACE, kept, np.random.default_rng(7)).config for _ in range(2)]
    assert asked[0] != asked[1]
    assert not {(c["a"], c["b"]) for c in asked} & pairs
    emitter.told([], kept)
    assert emitter.propose(SPACE, kept, np.random.default_rng(7)).config == asked[0]


def test_what_is_predicted_follows_from_what_was_told_alone():
    rng = np.random.default_rng(1)
    all_ = [candidate(int(a), int(b)) for a, b in rng.integers(0, 12, (70, 2))]
    asked = [{"a": a, "b": a} for a in range(12)]
    whole, parts = Predictor(), Predictor()
    whole.told(all_)
    for k in range(0, 70, 7):
        parts.told(all_[k : k + 7])
        if k:
            parts.predicted(SPACE, asked)
    for one, other in zip(whole.predicted(SPACE, asked), parts.predicted(SPACE, asked), strict=True):
        np.testing.assert_array_equal(one, other)
    mean, deviation = whole.predicted(SPACE, [dict(c.genome) for c in all_])
    assert np.abs(mean - [c.quality for c in all_]).max() < 0.05
    assert (deviation > 0).all()


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5), st.booleans()), min_size=1, max_size=20))
def test_who_leads_is_beaten_by_none_and_new(rows):
    leading, seen = Leading(AXES, ["latency_s"]), []
    for start in range(0, len(rows), 4):
        group = [candidate(a, 0, q / 5, violation=float(bad)) for q, a, bad in rows[start : start + 4]]
        found = leading.told(group).tolist()
        for k, one in enumerate(group):
            others = [(c.quality, -float(c.measures[0])) for c in [*seen, *group] if c.violation == 0]
            own = (one.quality, -float(one.measures[0]))
            stood = [(c.quality, -float(c.measures[0])) for c in [*seen, *group[:k]] if c.violation == 0]
            free = one.violation == 0 and bool(non_dominated(np.array([own, *others]))[0])
            assert found[k] == (free and own not in stood)
        seen += group
