"""How sure a median, or a ratio of two, is: what is timed in rounds is drawn again from these rounds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from toolkit.rng import numpy_generator

__all__ = ["interval", "median_draws", "ratio_draws"]

_DRAWS = 1000


def median_draws(durations: Sequence[float], name: str = "") -> np.ndarray:
    """Medians of 1,000 bootstraps over rounds; the same rounds for all of one name that ran as often."""
    draw = numpy_generator(0, "ratio of medians", name) if name else numpy_generator(0, "ratio of medians")
    rounds = draw.integers(0, len(durations), (_DRAWS, len(durations)))
    found: np.ndarray = np.median(np.asarray(durations)[rounds], axis=1)
    return found


def ratio_draws(above: Sequence[float], below: Sequence[float], name: str = "") -> np.ndarray:
    """The ratio of medians of 1,000 bootstraps over rounds: what the machine did besides fell on both.

    Args:
        name: Ratios of different names are drawn apart from each other.
    """
    ratio: np.ndarray = median_draws(above, name) / median_draws(below, name)
    return ratio


def interval(draws: np.ndarray) -> tuple[float, float]:
    """The middle 95 %."""
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(low), float(high)
