"""Convolutions and fully connected layers of a .tflite.

Sources: TFLite, kernels/internal/reference/integer_ops/conv.h, depthwise_conv.h, fully_connected.h and kernel_util.cc;
XNNPACK, the kernels named qs8-qc8w with suffix fp32.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np

from passes.dataset import Array
from toolkit.backends.litert.schema import ACTIVATIONS, PADDINGS
from toolkit.backends.litert.tensors import Quantization
from toolkit.verify.integers.arithmetic import rounded
from toolkit.verify.integers.calls import Unknown
from toolkit.verify.integers.fixed_point import multiplied, multiplied_once, multiplier
from toolkit.verify.integers.lite import LiteCall, LiteOperator
from toolkit.verify.integers.products import sums_of_products, window_rows

__all__ = ["OPERATORS", "limits", "sides"]

_NAMES = {number: name for name, number in ACTIVATIONS.items()}


def limits(call: LiteCall, q: Quantization) -> tuple[int, int]:
    """The range that the fused activation leaves, as stored."""
    name = _NAMES[call.option("fused_activation_function")]
    zero = q.zero_point[0]

    def stored(real: float) -> int:
        steps = np.float32(real) / np.float32(q.step)
        return zero + int(np.floor(abs(steps) + np.float32(0.5)) * np.sign(steps))

    low, high = {"": (-128, 127), "RELU": (stored(0), 127), "RELU6": (stored(0), stored(6)),
                 "RELU_N1_TO_1": (stored(-1), stored(1))}[name]  # fmt: skip
    return max(low, -128), min(high, 127)


def requantized(call: LiteCall, sums: Array, x: Quantization, weights: Quantization, *, once: bool = False) -> Array:
    """Sums (..., outputs) in steps of x times weight, brought to the scale of the result.

    Args:
        once: Fixed-point multiplication rounds once.
    """
    q = call.result
    low, high = limits(call, q)
    if call.numerics.multipliers == "float32":
        scale = np.float32(x.step) * np.asarray(weights.scale, np.float32) / np.float32(q.step)
        made = rounded(sums.astype(np.float32) * scale, q.zero_point[0], np.dtype(np.int8))
        return np.clip(made, np.int8(low), np.int8(high))
    each = x.step * np.asarray(weights.scale, np.float64) / q.step
    made = (multiplied_once if once else multiplied)(sums, multiplier(each))
    clipped: Array = np.clip(made + q.zero_point[0], low, high).astype(np.int8)
    return clipped


def sides(call: LiteCall, sizes: tuple[int, ...], kernel: list[int], dilations: list[int]) -> tuple[list[int], ...]:
    """Strides, then rows and columns that are added in front and behind."""
    strides = [int(call.option("stride_h", 1)), int(call.option("stride_w", 1))]
    if call.option("padding") == PADDINGS["VALID"]:
        return strides, [0, 0], [0, 0]
    wanted = [
        max(0, (-(-size // s) - 1) * s + d * (k - 1) + 1 - size)
        for size, k, s, d in zip(sizes, kernel, strides, dilations, strict=True)
    ]
    return strides, [w // 2 for w in wanted], [w - w // 2 for w in wanted]


def _windows(call: LiteCall, kernel: list[int]) -> tuple[Array, tuple[int, ...]]:
    image = call.array(0)
    dilations = [int(call.option(f"dilation_{axis}_factor", 1)) for axis in "hw"]
    strides, before, after = sides(call, image.shape[1:3], kernel, dilations)
    first = np.moveaxis(image, -1, 1)
    return window_rows(first, kernel, strides, dilations, call.scale(0).zero_point[0], before, after)


def _conv(call: LiteCall) -> list[Array]:
    image, weights = call.array(0), call.array(1)
    x, w = call.scale(0), call.scale(1)
    outputs, height, width, inputs = weights.shape
    groups = image.shape[-1] // inputs
    seen, results = _windows(call, [height, width])
    count, each = prod((len(image), *results)), outputs // groups
    parts = []
    for group in range(groups):
        rows = seen[..., group * inputs : (group + 1) * inputs].reshape(count, -1)
        columns = weights[group * each : (group + 1) * each].reshape(each, -1)
        parts.append(sums_of_products(rows, columns, x.zero_point[0], 0, saturating_pairs=False))
    sums = np.concatenate(parts, -1).reshape(len(image), *results, outputs) + call.array(2).astype(np.int64)
    return [requantized(call, sums, x, w)]


def _depthwise(call: LiteCall) -> list[Array]:
    weights = call.array(1).astype(np.int64)
    x, w = call.scale(0), call.scale(1)
    _, height, width, outputs = weights.shape
    seen, results = _windows(call, [height, width])
    times = outputs // seen.shape[-1]
    sums = np.zeros((len(seen), *results, outputs), np.int64)
    for row, column in np.ndindex(height, width):
        values = seen[:, :, :, row, column].astype(np.int64) - x.zero_point[0]
        sums += np.repeat(values, times, -1) * weights[0, row, column]
    return [requantized(call, sums + call.array(2).astype(np.int64), x, w)]


def _fully_connected(call: LiteCall) -> list[Array]:
    values, weights = call.array(0), call.array(1)
    x, w = call.scale(0), call.scale(1)
    if not w.whole or not w.symmetric:
        raise Unknown("with a scale for each output")
    rows = values.reshape(-1, weights.shape[1])
    sums = sums_of_products(rows, weights, x.zero_point[0], 0, saturating_pairs=False)
    sums = sums + call.array(2).astype(np.int64)
    return [requantized(call, sums, x, w, once=True)]  # LiteRT has this layer from ruy, in every set of its kernels


OPERATORS: Mapping[str, LiteOperator] = {
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": _fully_connected,
}
