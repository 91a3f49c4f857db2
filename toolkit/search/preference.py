"""Which of two candidates of one cell stays: the one that breaks less, then the better score, then the smaller id."""

from __future__ import annotations

from math import frexp, ldexp
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from toolkit.search.measures import Floats

__all__ = ["Policy", "paired_is_better", "rounded", "rounded_one", "scores"]

Policy: TypeAlias = Literal["mean", "lcb", "paired"]
"""How a noisy quality counts: its mean; its lower confidence bound; or by differences on the same examples."""

_KEPT_BITS = 40  # of a mantissa: 12 significant digits, whatever order sums were taken in


def scores(policy: Policy, z: float, quality: Floats, n: NDArray[np.int64], m2: Floats) -> Floats:
    """(k,) what is compared: mean, or mean - z sd / sqrt(n); rounded.

    A single measurement has no spread of its own and counts as it is: measure twice where noise matters.
    """
    if policy != "lcb":
        return rounded(quality)
    spread = np.sqrt(m2 / np.maximum(n - 1, 1) / n)
    return rounded(quality - z * spread)


def rounded(values: Floats) -> Floats:
    """To 40 bits of the mantissa: equal to 12 significant digits, equal afterwards."""
    mantissa, exponent = np.frexp(values)
    near: Floats = np.ldexp(np.rint(np.ldexp(mantissa, _KEPT_BITS)), exponent - _KEPT_BITS)
    return near


def rounded_one(value: float) -> float:
    """`rounded` of one number, to the bit."""
    mantissa, exponent = frexp(value)
    return ldexp(round(ldexp(mantissa, _KEPT_BITS)), exponent - _KEPT_BITS)


def paired_is_better(new: Floats, old: Floats, z: float) -> bool:
    """Whether `new` beats `old`, both (v,) on the same examples: mean(d) > z sd(d) / sqrt(v).

    For qualities of 0 and 1 this is McNemar's test.
    """
    difference = new - old
    count = len(difference)
    sd = float(difference.std(ddof=1)) if count > 1 else 0.0
    return bool(difference.mean() > z * sd / np.sqrt(count))
