"""Averages: of 8-bit integers over windows and whole images, and of the floats between two roundings.

Source: onnxruntime 1.32, qlinear_pool.cc, MLAS's qlgavgpool.cpp, reduction_ops.h, and the sum of a vector in Eigen.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np

from passes.dataset import Array
from toolkit.verify.integers.arithmetic import rounded, saturated
from toolkit.verify.integers.calls import Call, Operator, Unknown
from toolkit.verify.integers.convolving import padding
from toolkit.verify.integers.products import window_rows

__all__ = ["OPERATORS"]

_LANES = 4


def _average(call: Call) -> list[Array]:
    """Real numbers are added in the order of the window, one after the other, in float32."""
    image, kernel = call.array(0), tuple(call.integers("kernel_shape", ()))
    if int(call.attributes.get("channels_last", 0)) or int(call.attributes.get("ceil_mode", 0)):
        raise Unknown("with its channels last, or windows beyond the image")
    strides, dilations = (call.integers(name, [1] * len(kernel)) for name in ("strides", "dilations"))
    before, after = padding(call, image.shape[2:], kernel, strides, dilations)
    if any(d != 1 for d in dilations):
        raise Unknown("with gaps in its windows")
    real = call.scale(1)[0] * (image.astype(np.int32) - call.zero(2)).astype(np.float32)
    seen, results = window_rows(real, kernel, strides, dilations, 0.0, before, after)
    total = np.zeros((len(image), *results, image.shape[1]), np.float32)
    for position in np.ndindex(*kernel):
        total += seen[(slice(None),) * (1 + len(kernel)) + position]
    total /= _counted(call, image.shape[2:], kernel, strides, before, results)[..., None]
    zero = np.float32(call.zero(4))
    steps = np.rint(total / call.scale(3)[0] + zero)
    return [np.moveaxis(saturated(np.clip(steps, -(2**20), 2**20).astype(np.int32), image.dtype), -1, 1)]


def _counted(
    call: Call, sizes: tuple[int, ...], kernel: tuple[int, ...], strides: list[int], before: list[int],
    results: tuple[int, ...],
) -> Array:  # fmt: skip
    """By how many each window is divided, float32 (*results)."""
    if int(call.attributes.get("count_include_pad", 0)):
        return np.full(results, prod(kernel), np.float32)
    counts: Array = np.ones((), np.float32)
    for size, k, s, b, count in zip(sizes, kernel, strides, before, results, strict=True):
        start = np.arange(count) * s - b
        counts = np.multiply.outer(counts, (np.minimum(start + k, size) - np.maximum(start, 0)).astype(np.float32))
    return counts


def _global_average(call: Call) -> list[Array]:
    """The integers are added exactly; the sum is scaled once."""
    image = call.array(0)
    if int(call.attributes.get("channels_last", 0)):
        raise Unknown("with its channels last")
    count = prod(image.shape[2:])
    total = image.reshape(*image.shape[:2], count).sum(-1, dtype=np.int64) - call.zero(2) * count
    scale = call.scale(1)[0] / (call.scale(3)[0] * np.float32(count))
    made = rounded(total.astype(np.float32) * scale, call.zero(4), image.dtype)
    return [made.reshape(*image.shape[:2], *[1] * (image.ndim - 2))]


# ---- floats


def _mean(call: Call) -> list[Array]:
    """The mean over the last axes, as Eigen adds a row that is stored in one piece."""
    values = call.array(0)
    given = call.maybe(1)
    axes = call.integers("axes", ()) if given is None else [int(a) for a in given.reshape(-1)]
    axes = sorted(a % values.ndim for a in axes)
    if values.dtype != np.float32 or not axes or axes != list(range(axes[0], values.ndim)):
        raise Unknown("over other axes than the last")
    kept = values.shape[: axes[0]]
    rows = values.reshape(-1, prod(values.shape[axes[0] :]))
    means = _sums(rows, neighbours_first=call.numerics.neighbours_first) / np.float32(rows.shape[1])
    ones = [1] * len(axes) if int(call.attributes.get("keepdims", 1)) else []
    return [means.reshape(*kept, *ones)]


def _sums(rows: Array, *, neighbours_first: bool) -> Array:
    """Sums of rows that lie one behind the other in memory.

    Four lanes run from the first multiple of 16 bytes, twice abreast; what lies before and behind is added last.
    """
    count, size = rows.shape
    starts = np.minimum((-np.arange(count) * size) % _LANES, size)
    sums = np.zeros(count, np.float32)
    for start in np.unique(starts):
        chosen = starts == start
        sums[chosen] = _row_sums(rows[chosen], int(start), neighbours_first=neighbours_first)
    return sums


def _row_sums(rows: Array, start: int, *, neighbours_first: bool) -> Array:
    size = rows.shape[1]
    blocks = (size - start) // _LANES
    if blocks == 0:
        return _one_by_one(rows[:, 0], rows[:, 1:])
    lanes = rows[:, start : start + blocks * _LANES].reshape(len(rows), blocks, _LANES)
    total = lanes[:, 0]
    if blocks > 1:
        pairs = blocks // 2
        abreast = [
            _one_by_one(lanes[:, side], np.moveaxis(lanes[:, side + 2 : 2 * pairs : 2], 1, -1)) for side in (0, 1)
        ]
        total = abreast[0] + abreast[1]
        if blocks % 2:
            total = total + lanes[:, -1]
    order = (0, 1, 2, 3) if neighbours_first else (0, 2, 1, 3)
    first, second, third, fourth = (total[:, lane] for lane in order)
    joined = (first + second) + (third + fourth)
    return _one_by_one(_one_by_one(joined, rows[:, :start]), rows[:, start + blocks * _LANES :])


def _one_by_one(first: Array, rest: Array) -> Array:
    """`first` and then each of `rest` along its last axis, in float32."""
    total = first
    for position in range(rest.shape[-1]):
        total = total + rest[..., position]
    return total


OPERATORS: Mapping[str, Operator] = {
    "QLinearAveragePool": _average,
    "QLinearGlobalAveragePool": _global_average,
    "ReduceMean": _mean,
}
