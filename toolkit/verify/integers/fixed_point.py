"""Multiplying by a real number with integers alone: 31 bits of it, and a shift.

Source: TFLite, kernels/internal/quantization_util.cc and common.cc; Jacob et al. 2018, arXiv:1712.05877, section 2.2.
"""

from __future__ import annotations

import numpy as np

from passes.dataset import Array

__all__ = ["Multiplier", "multiplied", "multiplied_once", "multiplier", "shared"]

Multiplier = tuple[Array, Array]
"""(m, s): the numbers m / 2^31 x 2^s, m in [2^30, 2^31), one or one for each channel; int64."""

_LOWEST, _HIGHEST = -(2**31), 2**31 - 1


def multiplier(real: Array | float) -> Multiplier:
    """`real`, which is positive, to 31 bits; the mantissa is rounded half away from zero."""
    mantissa, exponent = np.frexp(np.asarray(real, np.float64))
    whole, shift = np.floor(mantissa * 2**31 + 0.5).astype(np.int64), exponent.astype(np.int64)
    full = whole == 2**31
    whole, shift = np.where(full, whole // 2, whole), np.where(full, shift + 1, shift)
    small = shift < -31
    return np.where(small, 0, whole), np.where(small, 0, shift)


def shared(by: Multiplier, count: int) -> Multiplier:
    """The multiplier divided by `count`, after as many bits of the quotient as there is room for were kept.

    Source: TFLite, kernels/internal/reference/reduce.h.
    """
    whole, shift = by
    kept = np.minimum(count.bit_length() - 1, 31 + shift)
    return (whole << kept) // count, shift - kept


def multiplied_once(values: Array, by: Multiplier) -> Array:
    """Integers times a real number, rounded once, ties away from zero."""
    whole, shift = by
    right = 31 - shift
    product = values.astype(np.int64) * whole
    result: Array = np.sign(product) * ((np.abs(product) + (np.int64(1) << (right - 1))) >> right)
    return result


def multiplied(values: Array, by: Multiplier) -> Array:
    """Integers times a real number, rounded twice: to the high half of the product, then by what is left of the shift.

    The first rounding takes ties up, the second away from zero; the product saturates at 32 bits.
    """
    whole, shift = by
    left, right = np.maximum(shift, 0), np.maximum(-shift, 0)
    high = values.astype(np.int64) << left
    high *= whole
    high += 1 << 30
    high >>= 31
    np.clip(high, _LOWEST, _HIGHEST, out=high)
    mask = (np.int64(1) << right) - 1
    threshold = (mask >> 1) + (high < 0)
    back: Array = (high >> right) + ((high & mask) > threshold)
    return back
