"""What is drawn again from rounds holds the truth, and is the same twice."""

from __future__ import annotations

import numpy as np

from toolkit.bench.bootstrap import interval, median_draws, ratio_draws


def test_a_ratio_of_medians_holds_the_true_one_and_is_drawn_alike_twice() -> None:
    rng = np.random.default_rng(0)
    above, below = (list(scale * rng.lognormal(0, 0.2, 200)) for scale in (3.0, 1.0))
    draws = ratio_draws(above, below)
    assert np.array_equal(draws, ratio_draws(above, below))
    low, high = interval(draws)
    assert 2.5 < low < 3 < high < 3.5


def test_a_median_of_rounds_that_agree_is_certain() -> None:
    assert interval(median_draws([3.0] * 20)) == (3.0, 3.0)
    assert not np.array_equal(median_draws(range(50), "one"), median_draws(range(50), "other"))
