"""Sums, products, rounding to 8 bits and back, averages of a .tflite.

Sources: TFLite, kernels/add.cc, mul.cc, quantize.cc, reduce.cc, pooling.cc and the reference kernels that they call;
XNNPACK, qs8-vadd, qs8-vmul, f32-qs8-vcvt.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import numpy as np

from passes.dataset import Array
from toolkit.backends.litert.tensors import Quantization
from toolkit.verify.integers.arithmetic import fused_multiply_add, rounded
from toolkit.verify.integers.calls import Unknown
from toolkit.verify.integers.fixed_point import multiplied, multiplier, shared
from toolkit.verify.integers.lite import LiteCall, LiteOperator
from toolkit.verify.integers.lite_products import limits, sides
from toolkit.verify.integers.products import window_rows

__all__ = ["OPERATORS"]

_LEFT = 20
_INT8 = np.dtype(np.int8)


def _half_away(values: Array) -> Array:
    """To the nearest integer, ties away from zero."""
    whole = np.trunc(values)
    result: Array = whole + np.where(np.abs(values - whole) >= 0.5, np.sign(values), 0)
    return result


def _quantize(call: LiteCall) -> list[Array]:
    values, q = call.array(0), call.operator.outputs[0].quantization
    kind = np.dtype(call.operator.outputs[0].dtype)
    assert q is not None
    if values.dtype == np.float32:
        if call.numerics.multipliers == "float32":
            return [rounded(values * (np.float32(1) / np.float32(q.step)), q.zero_point[0], kind)]
        with np.errstate(over="ignore"):
            steps = np.clip(np.nan_to_num(values / np.float32(q.step)), -1024, 1024)
        return [_clipped(_half_away(steps) + q.zero_point[0], kind)]
    x = call.tensor(0).quantization
    if x is None:
        raise Unknown(f"of {values.dtype}")
    return [_requantized(call, values, x, q, kind)]


def _requantized(call: LiteCall, values: Array, x: Quantization, q: Quantization, kind: np.dtype[np.generic]) -> Array:
    around = values.astype(np.int64) - x.zero_point[0]
    if call.numerics.multipliers == "fixed_point":
        return _clipped(multiplied(around, multiplier(x.step / q.step)) + q.zero_point[0], kind)
    by = int(np.rint(np.float32(256) * (np.float32(x.step) / np.float32(q.step))))
    made: Array = _clipped(((around * by + 128) >> 8) + q.zero_point[0], kind)
    return made


def _clipped(values: Array, kind: np.dtype[np.generic]) -> Array:
    edges = np.iinfo(kind)  # type: ignore[type-var]
    made: Array = np.clip(values, edges.min, edges.max).astype(kind)
    return made


def _dequantize(call: LiteCall) -> list[Array]:
    q = call.tensor(0).quantization
    if q is None or not q.whole:
        raise Unknown("of floats of half precision, or of many scales")
    return [q.real(call.array(0))]


# ---- two operands


def _sum(sign: int) -> LiteOperator:
    def run(call: LiteCall) -> list[Array]:
        x, y, q = call.scale(0), call.scale(1), call.result
        first = call.array(0).astype(np.int64) - x.zero_point[0]
        second = call.array(1).astype(np.int64) - y.zero_point[0]
        if call.numerics.multipliers == "float32":
            total = _shifted_once(first, second * sign, np.float32(x.step), np.float32(y.step), np.float32(q.step))
        else:
            twice = 2.0 * max(x.step, y.step)
            scaled = [
                multiplied(values << _LEFT, multiplier(step / twice))
                for values, step in ((first, x.step), (second, y.step))
            ]
            total = multiplied(scaled[0] + sign * scaled[1], multiplier(twice / ((1 << _LEFT) * q.step)))
        return [np.clip(total + q.zero_point[0], *limits(call, q)).astype(np.int8)]

    return run


def _shifted_once(first: Array, second: Array, x: np.float32, y: np.float32, q: np.float32) -> Array:
    """Both times integers of 21 bits, added, shifted back with ties up."""
    ratios = x / q, y / q
    shift = 20 - (int(np.frexp(max(ratios))[1]) - 1)
    a, b = (int(np.rint(np.float64(ratio) * 2.0**shift)) for ratio in ratios)
    made: Array = (first * a + second * b + (1 << (shift - 1))) >> shift
    return made


def _multiply(call: LiteCall) -> list[Array]:
    x, y, q = call.scale(0), call.scale(1), call.result
    product = (call.array(0).astype(np.int64) - x.zero_point[0]) * (call.array(1).astype(np.int64) - y.zero_point[0])
    scale = np.float32(x.step) * np.float32(y.step) / np.float32(q.step)
    low, high = limits(call, q)
    if call.numerics.products_by_shifts:
        total = _high_half(product, scale)
        return [np.clip(np.clip(total, -32768, 32767) + q.zero_point[0], low, high).astype(np.int8)]
    if call.numerics.multipliers == "float32":
        made = rounded(product.astype(np.float32) * scale, q.zero_point[0], _INT8)
        return [np.clip(made, low, high)]
    return [np.clip(multiplied(product, multiplier(float(scale))) + q.zero_point[0], low, high).astype(np.int8)]


def _high_half(product: Array, scale: np.float32) -> Array:
    """Times the mantissa of a float32 by the high half of a product that is cut off, then shifted with ties up.

    Source: XNNPACK, xnn_init_qs8_mul_minmax_rndnu_neon_params and qs8-vmul/neon.c.in.
    """
    mantissa, exponent = np.frexp(scale)
    shift = -int(exponent)
    behind = max(shift, 1)
    before = behind - shift
    widened = np.clip(product << before, -(2**31), 2**31 - 1)
    high = (widened * int(mantissa * 2**31)) >> 31
    made: Array = (high + (1 << (behind - 1))) >> behind
    return made


# ---- averages


def _divided(total: Array, count: Array | int) -> Array:
    """The quotient of integers to the nearest, ties away from zero."""
    half = np.asarray(count) // 2
    made: Array = np.sign(total) * ((np.abs(total) + half) // count)
    return made


def _mean(call: LiteCall) -> list[Array]:
    values, axes = call.array(0), tuple(int(a) for a in call.array(1).reshape(-1))
    x, q = call.scale(0), call.result
    count = prod(values.shape[a] for a in axes)
    total = (values.astype(np.int64) - x.zero_point[0]).sum(axes, keepdims=bool(call.option("keep_dims")))
    if call.numerics.multipliers == "float32":
        return [_scaled_mean(call, values.sum(axes, dtype=np.int64, keepdims=bool(call.option("keep_dims"))), count)]
    made = multiplied(total, shared(multiplier(x.step / q.step), count))
    return [_clipped(made + q.zero_point[0], _INT8)]


def _scaled_mean(call: LiteCall, total: Array, count: int) -> Array:
    """Sums of integers as they are stored, times a float32, with both zero points, rounded with the result's."""
    x, q = call.scale(0), call.result
    scale = np.float32(x.step) / (np.float32(q.step) * np.float32(count))
    zero, inside = np.float32(q.zero_point[0]), x.zero_point[0] * count
    if call.numerics.fused_multiply_add:
        same = fused_multiply_add(np.float32(-inside), scale, zero)
        return rounded(fused_multiply_add(total.astype(np.float32), scale, same), 0, _INT8)
    return rounded((total - inside).astype(np.float32) * scale + zero, 0, _INT8)


def _average_pool(call: LiteCall) -> list[Array]:
    image, q = call.array(0), call.result
    kernel = [int(call.option("filter_height")), int(call.option("filter_width"))]
    strides, before, after = sides(call, image.shape[1:3], kernel, [1, 1])
    first = np.moveaxis(image.astype(np.int64), -1, 1)
    seen, _ = window_rows(first, kernel, strides, [1, 1], 0, before, after)
    inside, _ = window_rows(np.ones((1, 1, *first.shape[2:]), np.int64), kernel, strides, [1, 1], 0, before, after)
    made = _divided(seen.sum((3, 4)), inside.sum((3, 4)))
    return [np.clip(made, *limits(call, q)).astype(np.int8)]


OPERATORS: Mapping[str, LiteOperator] = {
    "ADD": _sum(1),
    "AVERAGE_POOL_2D": _average_pool,
    "DEQUANTIZE": _dequantize,
    "MEAN": _mean,
    "MUL": _multiply,
    "QUANTIZE": _quantize,
    "SUB": _sum(-1),
}
