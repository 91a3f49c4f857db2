"""Multiplying by a real number with integers alone: 31 bits of it, and a shift.

Source: TFLite, kernels/internal/quantization_util.cc and common.cc; Jacob et al. 2018, arXiv:1712.05877, section 2.2.
"""

from __future__ import annotations

from math import frexp

import numpy as np

from passes.dataset import Array

__all__ = ["Multiplier", "multiplied", "multiplied_once", "multiplier", "shared"]

Multiplier = tuple[int, int]
"""(m, s): the number m / 2^31 x 2^s, m in [2^30, 2^31)."""

_LOWEST, _HIGHEST = -(2**31), 2**31 - 1


def multiplier(real: float) -> Multiplier:
    """`real`, which is positive, to 31 bits; the mantissa is rounded half away from zero."""
    mantissa, shift = frexp(real)
    whole = int(mantissa * 2**31 + 0.5)
    if whole == 2**31:
        whole, shift = whole // 2, shift + 1
    return (0, 0) if shift < -31 else (whole, shift)


def shared(by: Multiplier, count: int) -> Multiplier:
    """The multiplier divided by `count`, after as many bits of the quotient as there is room for were kept.

    Source: TFLite, kernels/internal/reference/reduce.h.
    """
    whole, shift = by
    kept = min(count.bit_length() - 1, 31 + shift)
    return (whole << kept) // count, shift - kept


def multiplied_once(values: Array, by: Multiplier) -> Array:
    """Integers times a real number, rounded once, ties away from zero."""
    whole, shift = by
    right = 31 - shift
    product = values.astype(np.int64) * whole
    result: Array = np.sign(product) * ((np.abs(product) + (1 << (right - 1))) >> right)
    return result


def multiplied(values: Array, by: Multiplier) -> Array:
    """Integers times a real number, rounded twice: to the high half of the product, then by what is left of the shift.

    The first rounding goes half up, the second half away from zero; the product saturates at 32 bits.
    """
    whole, shift = by
    left, right = max(shift, 0), max(-shift, 0)
    widened = values.astype(np.int64) << left
    product = widened * whole
    high = product + np.where(product >= 0, 1 << 30, 1 - (1 << 30))
    high = np.where(high >= 0, high >> 31, -(-high >> 31))  # C's division: towards zero
    high = np.clip(high, _LOWEST, _HIGHEST)
    if not right:
        result: Array = high
        return result
    mask = (1 << right) - 1
    threshold = (mask >> 1) + (high < 0)
    back: Array = (high >> right) + ((high & mask) > threshold)
    return back
