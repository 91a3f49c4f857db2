"""Convolutions and matrix products of integers, as onnxruntime computes them.

A sum is exact (or saturates in pairs, see `products`); the bias is added as an integer; the sum becomes float32, is
multiplied by input scale x weight scale / output scale, each product and quotient in float32, and rounded to even.
Source: onnxruntime 1.32, qlinearconv.cc, quant_gemm.cc, quantize_linear_matmul.cc, MLAS's convsym.cpp and qgemm.h.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, prod

import numpy as np

from passes.dataset import Array
from toolkit.verify.integers.arithmetic import rounded
from toolkit.verify.integers.calls import Call, Operator, Unknown
from toolkit.verify.integers.products import sums_of_products, window_rows

__all__ = ["OPERATORS"]


def _conv(call: Call) -> list[Array]:
    image, weights = call.array(0), call.array(3)
    _refuse_the_lowest(call, weights)
    kernel = weights.shape[2:]
    groups = int(call.attributes.get("group", 1))
    if int(call.attributes.get("channels_last", 0)):
        raise Unknown("with its channels last")
    strides, dilations = (call.integers(name, [1] * len(kernel)) for name in ("strides", "dilations"))
    before, after = padding(call, image.shape[2:], kernel, strides, dilations)
    image_zero, weight_zero = call.zero(2), _weight_zero(call.maybe(5))
    rows, results = window_rows(image, kernel, strides, dilations, image_zero, before, after)
    sums = _sums(call, rows, weights, groups, image_zero, weight_zero)  # (n, positions, outputs)
    if (bias := call.maybe(8)) is not None:
        sums = sums + bias.astype(np.int64)
    scale = call.scale(1) * call.scale(4) / call.scale(6)
    made = rounded(sums.astype(np.float32) * scale, call.zero(7), image.dtype)
    return [np.moveaxis(made, -1, 1).reshape(len(image), len(weights), *results)]


def _weight_zero(value: Array | None) -> int:
    """onnxruntime takes one zero point for all weights of a convolution."""
    if value is None:
        return 0
    if (value != value.reshape(-1)[0]).any():
        raise Unknown("with different zero points for its filters")
    return int(value.reshape(-1)[0])


def _refuse_the_lowest(call: Call, weights: Array) -> None:
    """On ARM two products of -128 and -128 leave 16 bits together; symmetric weights end at -127."""
    if call.numerics.sums_of_integers and weights.dtype == np.int8 and (weights == -128).any():
        raise Unknown("with a weight of -128, whose products leave 16 bits")


def padding(
    call: Call, sizes: tuple[int, ...], kernel: tuple[int, ...], strides: list[int], dilations: list[int]
) -> tuple[list[int], list[int]]:
    """Rows and columns that are added in front and behind."""
    pads = call.integers("pads", [0] * 2 * len(kernel))
    automatic = call.attributes.get("auto_pad", b"NOTSET").decode()
    if automatic in ("NOTSET", "VALID"):
        return pads[: len(kernel)], pads[len(kernel) :]
    wanted = [
        max(0, (ceil(size / s) - 1) * s + d * (k - 1) + 1 - size)
        for size, k, s, d in zip(sizes, kernel, strides, dilations, strict=True)
    ]
    less, more = [w // 2 for w in wanted], [w - w // 2 for w in wanted]
    return (less, more) if automatic == "SAME_UPPER" else (more, less)


def _sums(call: Call, rows: Array, weights: Array, groups: int, image_zero: int, weight_zero: int) -> Array:
    """(n, positions, outputs) int64 of windows (n, *results, *kernel, channels)."""
    spatial = weights.ndim - 2
    count, positions = len(rows), prod(rows.shape[1 : 1 + spatial])
    outputs, inputs = weights.shape[:2]
    if groups == outputs and inputs == 1 and groups > 1:
        return _depthwise(rows, weights, image_zero, weight_zero).reshape(count, positions, outputs)
    each = outputs // groups
    last = np.moveaxis(weights, 1, -1)  # window positions, then channels: the order in which pairs are made
    parts = []
    for group in range(groups):
        seen = rows[..., group * inputs : (group + 1) * inputs].reshape(count * positions, -1)
        chosen = last[group * each : (group + 1) * each].reshape(each, -1)
        parts.append(
            sums_of_products(
                seen, chosen, image_zero, weight_zero, saturating_pairs=call.numerics.saturating_pairs
            )
        )  # fmt: skip
    return np.concatenate(parts, -1).reshape(count, positions, outputs)


def _depthwise(rows: Array, weights: Array, image_zero: int, weight_zero: int) -> Array:
    """(n, *results, channels) int64; the kernels widen before they multiply, so nothing saturates."""
    spatial = weights.ndim - 2
    filters = np.moveaxis(weights[:, 0].astype(np.int64) - weight_zero, 0, -1)  # (*kernel, channels)
    total = np.zeros((*rows.shape[: 1 + spatial], rows.shape[-1]), np.int64)
    for position in np.ndindex(*filters.shape[:-1]):
        seen = rows[(slice(None),) * (1 + spatial) + position]
        total += (seen.astype(np.int64) - image_zero) * filters[position]
    return total


def _gemm(call: Call) -> list[Array]:
    rows, weights = call.array(0), call.array(3)
    _refuse_the_lowest(call, weights)
    if call.attributes.get("transA", 0):
        rows = rows.T
    columns = weights if call.attributes.get("transB", 0) else weights.T
    sums = _product(call, rows, columns, call.zero(2), call.maybe(5))
    if (bias := call.maybe(6)) is not None:
        sums = sums + bias.astype(np.int64)
    scale = np.float32(call.attributes.get("alpha", 1.0)) * call.scale(1) * call.scale(4)
    if call.maybe(7) is None:
        return [sums.astype(np.float32) * scale]
    return [rounded(sums.astype(np.float32) * (scale / call.scale(7)), call.zero(8), rows.dtype)]


def _matmul(call: Call) -> list[Array]:
    rows, weights = call.array(0), call.array(3)
    _refuse_the_lowest(call, weights)
    if rows.ndim < 2 or weights.ndim < 2:
        raise Unknown("of a vector")
    scale = call.scale(1) * call.scale(4) / call.scale(6)
    if scale.size > 1 and weights.ndim > 2:
        raise Unknown("of many matrices with scales for each column")
    sums = _batched(call, rows, weights)
    return [rounded(sums.astype(np.float32) * scale, call.zero(7), rows.dtype)]


def _batched(call: Call, rows: Array, weights: Array) -> Array:
    outer = np.broadcast_shapes(rows.shape[:-2], weights.shape[:-2])
    first = np.broadcast_to(rows, (*outer, *rows.shape[-2:]))
    second = np.broadcast_to(weights, (*outer, *weights.shape[-2:]))
    made = np.zeros((*outer, rows.shape[-2], weights.shape[-1]), np.int64)
    for index in np.ndindex(*outer):
        made[index] = _product(call, first[index], second[index].T, call.zero(2), call.maybe(5))
    return made


def _product(call: Call, rows: Array, columns: Array, row_zero: int, column_zero: Array | None) -> Array:
    zero: int | Array = 0
    if column_zero is not None:
        zero = column_zero.astype(np.int64).reshape(-1) if column_zero.size > 1 else int(column_zero.reshape(-1)[0])
    return sums_of_products(rows, columns, row_zero, zero, saturating_pairs=call.numerics.saturating_pairs)


OPERATORS: Mapping[str, Operator] = {"QLinearConv": _conv, "QGemm": _gemm, "QLinearMatMul": _matmul}
