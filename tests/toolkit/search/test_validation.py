"""Statistics of behaviour spaces against published data sets, and the checks against spaces known to be good or bad."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import datasets

from toolkit.errors import DescriptorError
from toolkit.search.behavior import BehaviorSpace
from toolkit.search.cells import Cells
from toolkit.search.centroids import cvt_centroids
from toolkit.search.measures import Measure
from toolkit.search.validation import (
    bartlett_sphericity,
    effective_dimension,
    kernel_spectrum,
    kmo,
    reliability,
    validate,
)

# Verified in three ways (closed form, residuals of regressions, the package factor_analyzer 0.5.1) to 1e-10.
KNOWN = {
    "iris": (0.5400766750, 706.959243, 6),
    "wine": (0.7786821206, 1317.180809, 78),
    "diabetes": (0.5350985938, 3385.309151, 45),
    "breast_cancer": (0.8322253095, 39362.120841, 435),
}


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_known_data_sets(name):
    x = getattr(datasets, f"load_{name}")().data
    total, statistic, df = KNOWN[name]
    assert kmo(x).total == pytest.approx(total, abs=1e-9)
    test = bartlett_sphericity(x)
    assert (test.chi2, test.df) == (pytest.approx(statistic, abs=1e-5), df)
    assert test.log_p < -300


def test_each_variable_of_iris_and_its_dimension():
    x = datasets.load_iris().data
    np.testing.assert_allclose(kmo(x).per_variable, [0.584060, 0.269575, 0.530748, 0.634207], atol=1e-6)
    assert bartlett_sphericity(x).log_p == pytest.approx(np.log(1.923e-149), abs=1e-3)
    assert effective_dimension(x) == pytest.approx(1.706658, abs=1e-6)
    assert effective_dimension(datasets.load_wine().data) == pytest.approx(5.103135, abs=1e-6)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.random.default_rng(0).random((3, 4)), "3 rows of 4 variables"),
        (np.column_stack([np.arange(9.0), np.ones(9)]), "column 1 is constant"),
        (np.column_stack([np.arange(9.0), 2 * np.arange(9.0)]), "columns follow from each other"),
    ],
)
def test_what_has_no_such_statistic_is_refused(x, words):
    with pytest.raises(DescriptorError, match=words):
        kmo(x)
    with pytest.raises(DescriptorError, match=words):
        bartlett_sphericity(x)


def space(count: int) -> BehaviorSpace:
    return BehaviorSpace([Measure(name=f"m{k}", unit="1", low=-4.0, high=4.0) for k in range(count)])


def failed(report):
    return {check.name for check in report.checks if not check.passed}


def factors(count: int, rank: int, noise: float = 0.05) -> np.ndarray:
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((4_000, rank))
    return hidden[:, np.arange(count) % rank] + noise * rng.standard_normal((4_000, count))


CELLS = Cells(cvt_centroids(100, 5, n_samples=3_000))


def test_independent_axes_pass_where_copies_of_one_factor_do_not():
    samples = np.random.default_rng(0).uniform(-4, 4, (4_000, 5))
    good = validate(space(5), samples, CELLS)
    assert good.passed
    assert good.sampling.total == pytest.approx(0.5, abs=0.03)
    copies = validate(space(5), factors(5, 1), CELLS)
    assert copies.sampling.total > 0.9  # "excellent", and yet
    assert {"effective dimension", "cells hit"} <= failed(copies)
    with pytest.raises(DescriptorError, match="effective dimension is 1"):
        validate(space(5), factors(5, 1), CELLS, strict=True)


def test_noise_is_not_reliable_and_quality_is_no_axis():
    rng = np.random.default_rng(0)
    true = rng.uniform(-3, 3, (200, 1, 5))
    repeats = true + np.where(np.arange(5) == 2, 5.0, 0.1) * rng.standard_normal((200, 3, 5))
    report = validate(space(5), true[:, 0], CELLS, repeats=repeats, quality=true[:, 0, 4] ** 3)
    assert {"reliability of m2", "follows quality: m4"} <= failed(report)
    assert not {"reliability of m0", "follows quality: m0"} & failed(report)


def test_reliability_is_that_of_shrout_and_fleiss():
    ratings = np.array([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], float)
    assert reliability(ratings[:, :, None])[0] == pytest.approx(0.17, abs=0.005)  # their table 4, ICC(1,1)
    with pytest.raises(DescriptorError, match="1 items measured 4 times"):
        reliability(ratings[:1, :, None])


def test_a_decorrelated_axis_of_mere_noise_resolves_nothing():
    rng = np.random.default_rng(0)
    latency = 10 ** rng.uniform(-3, 0, 2_000)
    samples = np.column_stack([latency, 1e9 * latency * 1.02 ** rng.standard_normal(2_000)])
    measures = [Measure(name="latency_s", unit="s", low=1e-3, high=1, transform="log"),
                Measure(name="memory_bytes", unit="B", low=1e5, high=1e10, transform="log")]  # fmt: skip
    fitted = BehaviorSpace.fit(measures, samples)
    report = validate(fitted, samples, Cells(cvt_centroids(50, 2, n_samples=2_000)))
    assert failed(report) == {"resolution of memory_bytes"}


def test_a_curved_sheet_has_two_large_components_and_a_cloud_has_not():
    rng = np.random.default_rng(0)
    u, v = rng.uniform(-1, 1, (2, 1_000))
    sheet = kernel_spectrum(np.column_stack([u, v, 0.3 * u * u, 0.3 * v * v, 0.3 * u * v]))
    cloud = kernel_spectrum(rng.uniform(-1, 1, (1_000, 5)))
    assert sheet[:2].sum() > 0.7 > 0.45 > cloud[:2].sum()
    assert sheet.sum() == pytest.approx(1)
