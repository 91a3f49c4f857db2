"""Scalar arithmetic of integer kernels, on whole arrays: rounding, saturation, fused products.

float32 operations of numpy are those of IEEE 754, so a kernel that multiplies, adds or divides in float32 is written
down as it stands. Two things numpy has no word for are here: a product and a sum rounded once, and saturation.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from passes.dataset import Array

__all__ = ["Floats", "fused_multiply_add", "rounded", "saturated"]


Floats = Array | np.floating[Any]
"""An array of floats, or one float."""


def saturated(values: Array, dtype: np.dtype[np.generic]) -> Array:
    """Integers `values` in the range of `dtype`, and in that type."""
    limits = np.iinfo(dtype)  # type: ignore[type-var]  # numpy knows no type of all integer types
    result: Array = np.clip(values, limits.min, limits.max).astype(dtype)
    return result


def rounded(values: Array, zero_point: int, dtype: np.dtype[np.generic]) -> Array:
    """float32 `values` to the nearest integer, ties to even, around `zero_point`, saturated to `dtype`.

    The kernels clip to the range less the zero point first, and add the zero point after rounding. What is no number
    becomes the lowest.
    """
    limits = np.iinfo(dtype)  # type: ignore[type-var]
    lowest = limits.min - zero_point
    clipped = np.clip(np.rint(values), lowest, limits.max - zero_point)
    result: Array = (np.where(np.isnan(clipped), lowest, clipped).astype(np.int32) + zero_point).astype(dtype)
    return result


def fused_multiply_add(a: Floats, b: Floats, c: Floats) -> Array:
    """a x b + c in float32, rounded once.

    The product of two float32 is exact in float64. Their sum with `c` need not be: where it was rounded, the last bit
    is made odd towards the exact sum, so that rounding again to float32 gives what rounding once would.
    Source: Boldo and Melquiond 2008, "Emulation of a FMA and correctly rounded sums: proved algorithms using rounding
    to odd".
    """
    product = np.asarray(a, np.float64) * np.asarray(b, np.float64)
    wide = np.asarray(c, np.float64)
    total = product + wide
    back = total - product
    lost = (product - (total - back)) + (wide - back)
    even = (total.view(np.int64) & 1) == 0
    towards = np.nextafter(total, np.where(lost > 0, np.inf, -np.inf))
    result: Array = np.where((lost != 0) & even, towards, total).astype(np.float32)
    return result
