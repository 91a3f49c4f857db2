"""Measures become places in the unit cube, evenly spread, and come back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.errors import ArchiveFormatError, DescriptorError
from toolkit.search.behavior import CLIPPED, NOT_FINITE, OK, BehaviorSpace
from toolkit.search.cells import Cells
from toolkit.search.centroids import cvt_centroids
from toolkit.search.measures import Measure

LATENCY = Measure(name="latency_s", unit="s", low=1e-3, high=1.0, transform="log", larger_is="worse")
MEMORY = Measure(name="peak_memory_bytes", unit="B", low=1e6, high=1e9, transform="log", larger_is="worse")
SPARSITY = Measure(name="sparsity", unit="1", low=0.0, high=1.0)
ACCURACY = Measure(name="accuracy", unit="1", low=0.01, high=0.99, transform="logit", larger_is="better")


def correlated(count: int = 2_000, seed: int = 0) -> np.ndarray:
    """Latency and memory of networks whose size decides both to a factor of 1.2, and a sparsity of its own."""
    rng = np.random.default_rng(seed)
    size = rng.uniform(0, 1, count)
    return np.column_stack([
        10 ** (-2.8 + 2.5 * size),
        10 ** (6.2 + 2.5 * size) * 1.2 ** rng.normal(size=count),
        rng.choice([0.0, 0.25, 0.5, 0.75], count),
    ])  # fmt: skip


def test_ends_and_middles_are_where_their_scale_puts_them():
    space = BehaviorSpace([LATENCY, SPARSITY, ACCURACY])
    raw = np.array([[1e-3, 0.0, 0.01], [1.0, 1.0, 0.99], [10**-1.5, 0.25, 0.5]])
    unit, flags = space.normalize(raw)
    np.testing.assert_allclose(unit, [[0, 0, 0], [1, 1, 1], [0.5, 0.25, 0.5]], atol=1e-12)
    assert flags.tolist() == [OK] * 3


def test_what_lies_outside_is_clipped_and_said():
    unit, flags = BehaviorSpace([LATENCY, SPARSITY]).normalize(np.array([[5.0, 0.5], [0.1, np.nan], [0.1, -np.inf]]))
    assert unit[0].tolist() == [1.0, 0.5]
    assert np.isnan(unit[1:]).all()
    assert flags.tolist() == [CLIPPED, NOT_FINITE, NOT_FINITE]


@given(st.lists(st.tuples(st.floats(1e-3, 1), st.floats(0, 1), st.floats(0.01, 0.99)), min_size=1, max_size=20))
@settings(deadline=None)
def test_one_row_is_placed_as_many_are_and_comes_back(rows):
    raw = np.array(rows)
    for measures, columns in (((LATENCY, SPARSITY, ACCURACY), [0, 1, 2]), ((SPARSITY,), [1])):
        space, values = BehaviorSpace(measures), raw[:, columns]
        unit, flags = space.normalize(values)
        for row in range(len(values)):
            place, flag = space.normalize_one(values[row])
            assert (place.tolist(), flag) == (unit[row].tolist(), flags[row])
        np.testing.assert_allclose(space.denormalize(unit), values, rtol=1e-9, atol=1e-12)


def test_axes_that_moved_together_move_apart():
    raw = correlated()
    measures = [LATENCY, MEMORY, SPARSITY]
    plain, _ = BehaviorSpace(measures).normalize(raw)
    assert np.corrcoef(plain.T)[0, 1] > 0.97
    space = BehaviorSpace.fit(measures, raw)
    unit, _ = space.normalize(correlated(seed=1))
    assert np.abs(np.corrcoef(unit.T) - np.eye(3)).max() < 0.08
    cells = Cells(cvt_centroids(200, 3, n_samples=5_000))
    assert len(np.unique(cells.of(unit))) > 2.5 * len(np.unique(cells.of(plain)))
    np.testing.assert_allclose(space.denormalize(space.normalize(raw)[0]), raw, rtol=1e-9)


def test_an_axis_rises_with_its_measure_where_the_earlier_ones_stay():
    space = BehaviorSpace.fit([LATENCY, MEMORY], correlated()[:, :2])
    memory = np.geomspace(1.1e7, 2e7, 500)
    unit, _ = space.normalize(np.column_stack([np.full(500, 0.015), memory]))
    assert (np.diff(unit[:, 1]) > 0).all()
    assert np.ptp(unit[:, 0]) == 0


def test_a_space_is_data():
    space = BehaviorSpace.fit([LATENCY, MEMORY, SPARSITY], correlated())
    again = BehaviorSpace.from_dict(space.to_dict())
    assert again.digest == space.digest != BehaviorSpace([LATENCY, MEMORY, SPARSITY]).digest
    np.testing.assert_array_equal(again.normalize(correlated())[0], space.normalize(correlated())[0])
    with pytest.raises(ArchiveFormatError, match="not a behaviour space"):
        BehaviorSpace.from_dict({"measures": [{"name": "x"}]})


def test_a_measure_that_says_nothing_is_named_or_dropped():
    raw = correlated()
    raw[:, 2] = 0.5
    with pytest.raises(DescriptorError, match="measure 'sparsity' is constant in 2000 samples"):
        BehaviorSpace.fit([LATENCY, MEMORY, SPARSITY], raw)
    assert BehaviorSpace.fit([LATENCY, MEMORY, SPARSITY], raw, drop_constant=True).names == LATENCY_AND_MEMORY
    raw[:, 1] = 1e9 * raw[:, 0]
    with pytest.raises(DescriptorError, match="'peak_memory_bytes' follows from the measures before it"):
        BehaviorSpace.fit([LATENCY, MEMORY], raw[:, :2])


LATENCY_AND_MEMORY = ("latency_s", "peak_memory_bytes")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"low": 1.0, "high": 1.0}, "goes from 1.0 to 1.0"),
        ({"low": 0.0, "high": 1.0, "transform": "log"}, "no logarithm at 0.0"),
        ({"low": 0.0, "high": 1.0, "transform": "logit"}, "no logit from 0.0 to 1.0"),
        ({"low": 0.0, "high": float("inf")}, "goes from 0.0 to inf"),
    ],
)
def test_ranges_that_mean_nothing_are_refused(arguments, words):
    with pytest.raises(DescriptorError, match=words):
        Measure(name="x", unit="1", **arguments)


def test_too_few_samples_and_double_names_are_refused():
    with pytest.raises(DescriptorError, match="3 finite samples for 2 measures"):
        BehaviorSpace.fit([LATENCY, MEMORY], correlated(3)[:, :2])
    with pytest.raises(DescriptorError, match="no space of the measures"):
        BehaviorSpace([LATENCY, LATENCY])
