"""Scores of archives against numbers made by hand, and against shifts that must change nothing."""

from __future__ import annotations

import numpy as np
import pytest

from toolkit.errors import DescriptorError
from toolkit.search.archive import CVTArchive
from toolkit.search.behavior import BehaviorSpace
from toolkit.search.bootstrap import bootstrap
from toolkit.search.elites import Candidate
from toolkit.search.hypervolume import exclusive, hypervolume, non_dominated
from toolkit.search.measures import Measure
from toolkit.search.statistics import continuous_score, front_volume, reevaluate, statistics

SPACE = BehaviorSpace([Measure(name="latency_s", unit="s", low=0.0, high=1.0, larger_is="worse"),
                       Measure(name="sparsity", unit="1", low=0.0, high=1.0)])  # fmt: skip
CORNERS = np.array([[0.25, 0.25], [0.25, 0.75], [0.75, 0.25], [0.75, 0.75]])


def filled(qualities, shift=0.0):
    archive = CVTArchive(SPACE, CORNERS, quality_min=shift, quality_max=1.0 + shift)
    archive.add([Candidate({"k": k}, CORNERS[k], q + shift) for k, q in enumerate(qualities)])
    return archive


def test_numbers_by_hand():
    stats = statistics(filled([0.5, 0.25, 1.0]))
    assert (stats.occupied, stats.coverage, stats.best) == (3, 0.75, 1.0)
    assert stats.qd_score == 1.75
    assert stats.qd_norm == 1.75 / 4
    assert statistics(filled([])).best is None


def test_shifting_all_qualities_changes_no_score():
    targets = np.random.default_rng(0).random((50, 2))
    near, far = (
        continuous_score(filled([0.5, 0.2, 0.9], shift), targets, np.linspace(0, 1, 5)) for shift in (0.0, 10.0)
    )
    assert near == pytest.approx(far)
    assert statistics(filled([0.5, 0.2], 10.0)).qd_score == pytest.approx(0.7)
    one = filled([0.5])
    at_home = continuous_score(one, CORNERS[:1], np.array([1.0]))
    opposite = continuous_score(one, CORNERS[3:], np.array([1.0]))
    assert (at_home, opposite) == (0.5, pytest.approx(0.0))  # half the diagonal away, at a penalty of 1


def test_volume_under_a_front_of_elites():
    archive = filled([0.5, 0.25, 1.0])  # latencies 0.25, 0.25, 0.75
    volume = front_volume(archive, {"latency_s": False, "quality": True}, np.array([1.0, 0.0]))
    assert volume == pytest.approx(0.75 * 0.5 + 0.25 * 0.5)
    assert front_volume(filled([]), {"quality": True}, np.array([0.0])) == 0.0
    with pytest.raises(DescriptorError, match="no hypervolume of"):
        front_volume(archive, {"energy_j": False}, np.array([1.0]))


def test_exact_volumes():
    assert hypervolume(np.array([[3.0, 1], [2, 2], [1, 3], [1, 1]]), np.zeros(2)) == 6.0
    assert hypervolume(np.array([[1.0, 1, 1], [2, 0.5, 0.5]]), np.zeros(3)) == pytest.approx(1.25)
    points = np.random.default_rng(0).random((12, 3))
    drawn = np.random.default_rng(1).random((200_000, 3))
    share = (drawn[:, None] <= points[None]).all(2).any(1).mean()
    assert hypervolume(points, np.zeros(3)) == pytest.approx(share, abs=4e-3)
    assert (exclusive(points, np.zeros(3)) > 0).tolist() == non_dominated(points).tolist()
    with pytest.raises(ValueError, match="not finite"):
        hypervolume(np.array([[np.nan, 1.0]]), np.zeros(2))


def test_the_luck_of_many_tries_is_found_when_measured_again():
    archive = CVTArchive(SPACE, CORNERS, quality_min=0, quality_max=2)
    rng = np.random.default_rng(0)
    for k in range(200):
        archive.add([Candidate({"k": k}, rng.random(2), 0.8 + 0.05 * rng.standard_normal())])
    corrected = reevaluate(archive, lambda elite, repeat: 0.8 + 0.05 * rng.standard_normal(), repeats=50)
    assert corrected.after == pytest.approx(0.8, abs=0.02)
    assert corrected.inflation == pytest.approx(0.11, abs=0.03)  # of 50 normal tries a cell, the best: 2.25 sd
    assert {e.genome["k"] for e in corrected.archive} == {e.genome["k"] for e in archive}
    with pytest.raises(DescriptorError, match="nothing to measure again"):
        reevaluate(archive.empty(), lambda elite, repeat: 0.0, repeats=1)


def weighted():
    archive = CVTArchive(SPACE, CORNERS, quality_min=0, quality_max=1)
    archive.add([Candidate({"w": np.full((2, 2), k, np.float32)}, CORNERS[k], 0.5) for k in (0, 3)])
    return archive


def test_beginning_at_an_elite_gives_it_back_and_between_two_a_mixture():
    rng = np.random.default_rng(0)
    assert bootstrap(weighted(), CORNERS[3], rng, sigma=0.0)["w"].tolist() == [[3, 3], [3, 3]]
    third = CORNERS[0] + (CORNERS[3] - CORNERS[0]) / 3
    np.testing.assert_allclose(bootstrap(weighted(), third, rng, sigma=0.0, k=2)["w"], np.ones((2, 2)), rtol=1e-6)


def test_noise_is_in_proportion_to_the_weights():
    archive = CVTArchive(SPACE, CORNERS, quality_min=0, quality_max=1)
    archive.add([Candidate({"w": np.full(20_000, 0.044)}, CORNERS[0], 0.5)])
    noisy = bootstrap(archive, CORNERS[0], np.random.default_rng(0), sigma=0.5)["w"]
    assert np.std(noisy) == pytest.approx(0.022, rel=0.03)
    with pytest.raises(DescriptorError, match="a configuration, it has no arrays"):
        bootstrap(filled([0.5]), CORNERS[0], np.random.default_rng(0), sigma=0.0)
