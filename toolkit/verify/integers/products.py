"""Sums of products of 8-bit integers, exact or with pairs that saturate at 16 bits.

numpy multiplies integer matrices without BLAS, some fifty times slower than floats. So integers are held in float64,
where each product and each sum is an integer below 2^53 and therefore exact in whatever order BLAS adds; a sum of
8-bit products needs 2^16 x its length, which reaches 2^53 at 10^11 terms.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.lib.stride_tricks import as_strided

from passes.dataset import Array

__all__ = ["sums_of_products", "window_rows"]

_HIGHEST, _LOWEST = 32767, -32768


def sums_of_products(
    rows: Array, columns: Array, row_zero: int, column_zero: int | Array, *, saturating_pairs: bool
) -> Array:
    """(row - zero) . (column - zero) of every row with every column, as a device's int32 accumulators hold it.

    Args:
        rows: (m, k) uint8 or int8, as stored.
        columns: (n, k) uint8 or int8, as stored.
        row_zero: Zero point of `rows`.
        column_zero: Zero point of `columns`, or (n,) one for each.
        saturating_pairs: The stored numbers 2j and 2j + 1 are multiplied and added in 16 bits that saturate; only
            products of uint8 rows and int8 columns are.

    Returns:
        (m, n) int64.
    """
    wide_rows, wide_columns = rows.astype(np.float64), columns.astype(np.float64)
    total = wide_rows @ wide_columns.T
    total -= row_zero * wide_columns.sum(1)
    total -= (wide_rows.sum(1)[:, None] - rows.shape[1] * row_zero) * np.asarray(column_zero, np.float64)
    result: Array = total.astype(np.int64)
    if saturating_pairs and rows.dtype == np.uint8 and columns.dtype == np.int8:
        result -= _beyond_16_bits(rows, columns)
    return result


def _beyond_16_bits(rows: Array, columns: Array) -> Array:
    """What the saturation of pairs takes from each sum, (m, n) int64.

    A pair can saturate only where its weights of one sign reach 129 together (255 x 129 > 32767): those are few.
    """
    if columns.shape[1] % 2:
        rows, columns = np.pad(rows, ((0, 0), (0, 1))), np.pad(columns, ((0, 0), (0, 1)))
    first, second = (columns[:, start::2].astype(np.int32) for start in (0, 1))
    above = 255 * (np.maximum(first, 0) + np.maximum(second, 0)) > _HIGHEST
    below = 255 * (np.minimum(first, 0) + np.minimum(second, 0)) < _LOWEST
    lost = np.zeros((len(rows), len(columns)), np.int64)
    for pair in np.flatnonzero((above | below).any(0)):
        chosen = np.flatnonzero(above[:, pair] | below[:, pair])
        left, right = rows[:, 2 * pair, None].astype(np.int32), rows[:, 2 * pair + 1, None].astype(np.int32)
        sums = left * first[chosen, pair] + right * second[chosen, pair]
        lost[:, chosen] += sums - np.clip(sums, _LOWEST, _HIGHEST)
    return lost


def window_rows(
    image: Array, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int], fill: int | float,
    before: Sequence[int], after: Sequence[int],
) -> tuple[Array, tuple[int, ...]]:  # fmt: skip
    """What each window of an image sees.

    Args:
        image: (n, channels, *sizes).
        kernel, strides, dilations, before, after: One number for each axis of `sizes`; the last two are padding.
        fill: What padding holds.

    Returns:
        (n, *results, *kernel, channels), a view where it can be, and the sizes of the result.
    """
    sides = [(0, 0), *zip(before, after, strict=True), (0, 0)]
    moved = np.moveaxis(image, 1, -1)
    padded = np.pad(moved, sides, constant_values=fill) if any(map(any, sides)) else np.ascontiguousarray(moved)
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    results = tuple((s - r) // t + 1 for s, r, t in zip(padded.shape[1:-1], reach, strides, strict=True))
    steps = padded.strides[1:-1]
    strided = (
        padded.strides[0], *(s * t for s, t in zip(steps, strides, strict=True)),
        *(s * d for s, d in zip(steps, dilations, strict=True)), padded.strides[-1],
    )  # fmt: skip
    seen = as_strided(padded, (len(image), *results, *kernel, image.shape[1]), strided, writeable=False)
    return seen, results
