"""The archive keeps the best of every cell, whatever order, batch or merge brought it."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.errors import ArchiveFormatError, BudgetExceeded, DescriptorError
from toolkit.search.archive import CVTArchive
from toolkit.search.behavior import BehaviorSpace
from toolkit.search.centroids import cvt_centroids
from toolkit.search.elites import Candidate, Evaluation, Outcome
from toolkit.search.measures import Measure

SPACE = BehaviorSpace([
    Measure(name="latency_s", unit="s", low=1e-3, high=1.0, transform="log", larger_is="worse"),
    Measure(name="sparsity", unit="1", low=0.0, high=1.0),
])  # fmt: skip
CENTROIDS = cvt_centroids(7, 2, n_samples=1_000)


def archive(**settings: object) -> CVTArchive:
    return CVTArchive(SPACE, CENTROIDS, **{"quality_min": 0.0, "quality_max": 1.0, **settings})  # type: ignore[arg-type]


def candidate(
    latency_s: float = 0.03, sparsity: float = 0.5, quality: float = 0.5, genome: object = None, **rest: object
) -> Candidate:
    made = {"bits": [8, 4], "q": quality} if genome is None else genome
    return Candidate(made, np.array([latency_s, sparsity]), quality, **rest)  # type: ignore[arg-type]


def contents(of: CVTArchive) -> list[tuple[object, ...]]:
    return [(e.cell, e.id, e.evaluation, e.violation, tuple(e.measures)) for e in of]


candidates = st.lists(
    st.builds(
        candidate,
        latency_s=st.sampled_from([0.0005, 0.001, 0.02, 0.05, 0.9, 3.0]) | st.floats(1e-3, 1.0),
        sparsity=st.sampled_from([0.0, 0.25, 0.5]) | st.floats(0, 1),
        quality=st.sampled_from([0.0, 0.5, 0.5 + 1e-15, 1.0, float("nan")]) | st.floats(0, 1),
        genome=st.builds(lambda n: {"gene": n}, st.integers(0, 30)),
        violation=st.sampled_from([0.0, 0.0, 0.0, 0.5, 2.0]),
        n=st.integers(1, 4),
        m2=st.sampled_from([0.0, 0.01]),
    ),
    max_size=40,
    unique_by=lambda c: c.genome["gene"],
)


@given(offered=candidates, policy=st.sampled_from(["mean", "lcb"]), data=st.data())
@settings(deadline=None)
def test_what_it_holds_depends_on_the_set_of_candidates_alone(offered, policy, data):
    at_once, one_by_one, left, right = (archive(policy=policy) for _ in range(4))
    at_once.add(offered)
    for c in data.draw(st.permutations(offered)):
        one_by_one.add([c])
    cut = data.draw(st.integers(0, len(offered)))
    left.add(offered[:cut])
    right.add(offered[cut:])
    right.merge(left)
    assert contents(at_once) == contents(one_by_one) == contents(right)
    right.merge(right)
    left.merge(right)
    assert contents(at_once) == contents(right) == contents(left)


@given(offered=candidates)
@settings(deadline=None)
def test_score_and_coverage_never_fall(offered):
    kept = archive()
    before = (0, 0.0)
    for c in offered:
        kept.add([c._replace(violation=0.0)])
        now = (len(kept), float(kept.qualities.sum()))
        assert now[0] >= before[0]
        assert now[1] >= before[1] - 1e-9
        before = now


@given(offered=candidates)
@settings(deadline=None)
def test_reports_say_what_became_of_each(offered):
    kept = archive()
    report = kept.add(offered)
    assert len(report) == len(offered)
    for row, c in enumerate(offered):
        if np.isnan(c.quality):
            assert (report.outcome[row], report.cell[row]) == (Outcome.INVALID, -1)
            continue
        assert report.cell[row] == kept.cell_of(c.measures[None])[0]
        stays = kept.get(int(report.cell[row])).genome == c.genome
        assert (report.outcome[row] == Outcome.NEW) == stays
        assert report.clipped[row] == (not 1e-3 <= c.measures[0] <= 1.0)


def test_one_row_that_is_not_finite_concerns_no_other():
    kept = archive()
    good = candidate()
    report = kept.add(
        [candidate(latency_s=float("nan")), good, candidate(quality=float("inf")), candidate(violation=-1.0)]
    )
    assert report.outcome.tolist() == [Outcome.INVALID, Outcome.NEW, Outcome.INVALID, Outcome.INVALID]
    assert [e.genome for e in kept] == [good.genome]
    assert archive().add([candidate(sparsity=float("inf"))]).outcome.tolist() == [Outcome.INVALID]


def test_feasible_beats_better_and_less_broken_beats_more():
    kept = archive()
    kept.add([candidate(quality=0.9, violation=2.0)])
    assert kept.add([candidate(quality=0.1, violation=1.0)]).outcome.tolist() == [Outcome.IMPROVED]
    assert kept.add([candidate(quality=0.8, violation=1.5)]).outcome.tolist() == [Outcome.REJECTED]
    assert kept.add([candidate(quality=0.05)]).count(Outcome.IMPROVED) == 1
    assert next(iter(kept)).quality == 0.05


def test_the_lower_confidence_bound_asks_for_measurements():
    lucky = candidate(quality=0.9, n=4, m2=3 * 0.3**2)  # sd 0.3, bound 0.75
    steady = candidate(quality=0.8, n=4, m2=3 * 0.02**2)  # sd 0.02, bound 0.79
    by_mean, by_bound = archive(), archive(policy="lcb")
    for kept in (by_mean, by_bound):
        kept.add([lucky, steady])
    assert next(iter(by_mean)).quality == 0.9
    assert next(iter(by_bound)).quality == 0.8


def test_pairs_are_compared_on_the_same_examples():
    kept = archive(policy="paired", z=1.0)
    old = np.array([1, 1, 1, 0, 0, 0, 0, 0.0])
    kept.add([candidate(quality=old.mean(), examples=old)])
    chance = np.array([0, 0, 1, 1, 1, 1, 0, 0.0])  # one better on average, sd of the differences 0.83
    assert kept.add([candidate(quality=chance.mean(), examples=chance)]).outcome.tolist() == [Outcome.REJECTED]
    sure = np.array([1, 1, 1, 1, 1, 1, 0, 0.0])
    assert kept.add([candidate(quality=sure.mean(), examples=sure)]).outcome.tolist() == [Outcome.IMPROVED]
    with pytest.raises(DescriptorError, match="same examples"):
        kept.add([candidate(quality=1.0)])


def test_a_front_keeps_what_nobody_dominates():
    kept = CVTArchive(
        SPACE, np.full((1, 2), 0.5), quality_min=0.0, quality_max=1.0, front_size=3, objectives=["latency_s"]
    )
    kept.add([candidate(0.01, quality=0.3), candidate(0.1, quality=0.6), candidate(0.5, quality=0.9)])
    assert sorted(e.quality for e in kept) == [0.3, 0.6, 0.9]
    kept.add([candidate(0.2, quality=0.2)])  # slower and worse than the second
    assert len(kept) == 3
    kept.add([candidate(0.05, quality=0.7)])  # faster and better than the second
    assert sorted(e.quality for e in kept) == [0.3, 0.7, 0.9]
    kept.add([candidate(0.06, quality=0.71)])  # a fourth of the front: what adds least goes
    assert len(kept) == 3
    assert {0.3, 0.9} <= {e.quality for e in kept}
    assert kept.get(0).quality == 0.9
    assert kept.add([candidate(0.5, quality=0.9)]).outcome.tolist() == [Outcome.REJECTED]  # it is there


def test_nothing_that_is_kept_can_be_changed_from_outside():
    weights = np.arange(4.0)
    kept = archive()
    kept.add([candidate(genome={"w": weights})])
    weights[:] = 7
    elite = next(iter(kept))
    assert elite.genome["w"].tolist() == [0, 1, 2, 3]
    for array in (elite.genome["w"], elite.measures, elite.unit):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    with pytest.raises(TypeError):
        elite.genome["w"] = weights


def test_more_measurements_are_merged_into_an_elite():
    kept = archive(policy="lcb")
    kept.add([candidate(quality=0.8)])
    name = next(iter(kept)).id
    kept.update(name, Evaluation(0.4))
    elite = next(iter(kept))
    assert (elite.quality, elite.evaluation.n) == (pytest.approx(0.6), 2)
    assert elite.evaluation.sd == pytest.approx(np.std([0.8, 0.4], ddof=1))
    with pytest.raises(DescriptorError, match="no update of 'nobody'"):
        kept.update("nobody", Evaluation(1.0))


def test_memory_is_refused_before_anything_changes():
    kept = archive(budget_bytes=100)
    kept.add([candidate(genome=np.zeros(8))])
    with pytest.raises(BudgetExceeded, match="do not fit into the 100 bytes"):
        kept.add([candidate(0.9, 0.9, genome=np.ones(8)), candidate(0.9, 0.1, genome=np.ones(8))])
    assert len(kept) == 1
    assert kept.nbytes == 64
    kept.add([candidate(quality=0.6, genome=np.ones(9))])  # the elite that it replaces makes room
    assert kept.nbytes == 72


def test_the_worst_of_the_crowd_goes_when_told_to():
    kept = archive(budget_bytes=3 * 64, over_budget="evict")
    places = [(0.0015, 0.1), (0.0015, 0.9), (0.9, 0.1), (0.9, 0.9)]
    cells = kept.cell_of(np.array(places))
    assert len(set(cells.tolist())) == 4
    for (latency_s, sparsity), quality in zip(places, [0.5, 0.2, 0.7, 0.1], strict=True):
        kept.add([candidate(latency_s, sparsity, quality, np.full(8, quality))])
    assert sorted(e.quality for e in kept) == [0.1, 0.5, 0.7]  # the newcomer is spared, the worst of the others went


def test_children_that_stay_make_parents_likelier():
    kept = archive()
    kept.add([candidate(0.0015, 0.1, genome={"a": 1}), candidate(0.9, 0.9, genome={"a": 2})])
    first, second = kept
    kept.add(
        [
            candidate(0.9, 0.1, 0.9, {"a": 3}, parents=(first.id,)),
            candidate(0.9, 0.1, 0.1, {"a": 4}, parents=(second.id,)),
        ]
    )
    drawn = [e.id for e in kept.sample(200, np.random.default_rng(0), weights="curiosity")]
    assert drawn.count(first.id) > 2 * drawn.count(second.id)
    assert {e.id for e in kept.sample(100, np.random.default_rng(0))} == {e.id for e in kept}
    with pytest.raises(DescriptorError, match="empty"):
        archive().sample(1, np.random.default_rng(0))


def test_elites_are_found_by_what_they_are():
    kept = archive()
    kept.add([candidate(0.002, 0.1, 0.3), candidate(0.03, 0.5, 0.8), candidate(0.9, 0.9, 0.9)])
    assert [e.quality for e in kept.query({"latency_s": (0, 0.1)})] == [0.8, 0.3]
    assert [e.quality for e in kept.query({}, order_by="latency_s")] == [0.3, 0.8, 0.9]
    assert [e.quality for e in kept.query({"quality": (0.85, 1)})] == [0.9]
    assert kept.nearest(np.array([0.025, 0.4]), k=2)[0].quality == 0.8
    with pytest.raises(DescriptorError, match="no measure 'energy'"):
        kept.query({"energy": (0, 1)})


def test_archives_of_other_cells_do_not_merge():
    other = CVTArchive(SPACE, CENTROIDS[:3], quality_min=0, quality_max=1)
    with pytest.raises(ArchiveFormatError, match="different cells"):
        archive().merge(other)


def test_many_candidates_outside_are_said_once(caplog):
    kept = archive()
    with caplog.at_level(logging.WARNING):
        for k in range(400):
            kept.add([candidate(5.0 if k % 10 == 0 else 0.1, quality=k / 400)])
    assert [r.getMessage() for r in caplog.records] == [
        "warning: more than 5 % of the candidates lie outside the space: latency_s 5 to 5 s, sparsity 0.5 to 0.5 1"
    ]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"quality_min": 1.0}, "quality_min below quality_max"),
        ({"front_size": 0}, "front_size from 1"),
        ({"objectives": ["sparsity"]}, "measures that say what is better: latency_s"),
    ],
)
def test_what_does_not_go_together_is_refused(settings, words):
    with pytest.raises(DescriptorError) as caught:
        archive(**settings)
    assert words in caught.value.hint


def test_measures_of_another_length_are_refused():
    with pytest.raises(DescriptorError, match=r"measures of shape \(1, 3\) for a space of 2"):
        archive().add([Candidate({}, np.zeros(3), 0.5)])
