"""Centroids represent their samples; a point's cell is its nearest centroid, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from toolkit.errors import DescriptorError
from toolkit.search.cells import Cells
from toolkit.search.centroids import cvt_centroids


@given(
    seed=st.integers(0, 1_000), cells=st.integers(1, 300), measures=st.integers(1, 6), levels=st.sampled_from([2, 5, 0])
)
@settings(deadline=None)
def test_the_nearest_centroid_and_of_equals_the_first(seed, cells, measures, levels):
    rng = np.random.default_rng(seed)
    points, centroids = rng.random((300, measures)), rng.random((cells, measures))
    if levels:  # on a lattice many centroids are equally near
        points, centroids = np.round(points * levels) / levels, np.round(centroids * levels) / levels
    found = Cells(centroids)
    distances = cdist(points, found.centroids, "sqeuclidean")
    expected = distances[np.arange(300), found.of(points)]
    np.testing.assert_allclose(expected, distances.min(1), rtol=0, atol=1e-15)
    assert [found.of_one(point) for point in points[:40]] == found.of(points[:40]).tolist()


def test_two_at_the_same_distance_give_the_first():
    cells = Cells(np.array([[0.75, 0.5], [0.25, 0.5], [0.5, 0.0]]))
    assert cells.of(np.array([[0.5, 0.5]])).tolist() == [0]
    assert cells.of_one(np.array([0.5, 0.5])) == 0


def test_many_cells_are_looked_up_in_the_tree_alike():
    rng = np.random.default_rng(0)
    centroids, points = rng.random((5_000, 3)), rng.random((200, 3))
    assert (Cells(centroids).of(points) == cdist(points, centroids).argmin(1)).all()


def test_lloyd_represents_better_than_samples_do():
    points = np.random.default_rng(1).random((20_000, 3))
    centroids = cvt_centroids(100, 3, n_samples=10_000)
    drawn = np.random.default_rng(2).random((100, 3))
    error, chance = (np.sqrt(cdist(points, c, "sqeuclidean").min(1).mean()) for c in (centroids, drawn))
    assert error < 0.9 * chance
    assert (cvt_centroids(100, 3, n_samples=10_000) == centroids).all()
    assert (centroids == centroids[np.lexsort(centroids.T[::-1])]).all()


def test_cells_lie_where_samples_do():
    samples = np.random.default_rng(0).random((2_000, 2)) * [1.0, 0.1]
    centroids = cvt_centroids(50, 2, samples=samples)
    assert centroids[:, 1].max() < 0.1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"cells": 0, "measures": 2}, "no 0 cells of 2 measures"),
        ({"cells": 5, "measures": 2, "samples": np.zeros((100, 2))}, "5 cells, but 1 different samples"),
        ({"cells": 5, "measures": 2, "samples": np.full((100, 2), 2.0)}, r"samples of shape \(100, 2\)"),
    ],
)
def test_what_cannot_be_divided_is_refused(arguments, words):
    with pytest.raises(DescriptorError, match=words):
        cvt_centroids(**arguments)
    with pytest.raises(DescriptorError, match="centroids of shape"):
        Cells(np.array([[np.nan]]))
