"""Operators that work element by element: rounding to 8 bits and back, sums and products of two, floats between.

Source: onnxruntime 1.32, MLAS's quantize.cpp, qladd.cpp, intrinsics/avx2/qladd_avx2.cpp and qlmul.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from passes.dataset import Array
from toolkit.verify.integers.arithmetic import fused_multiply_add, rounded, saturated
from toolkit.verify.integers.calls import Call, Operator, Unknown

__all__ = ["OPERATORS"]

_SHIFTS = range(13, 32)
_BITS = 21


def _along(values: Array, scale: Array | None, axis: int) -> Array:
    """One number for each index of `axis`, ready to meet `values`."""
    assert scale is not None
    if scale.size == 1:
        return scale.reshape(())
    shape = [1] * values.ndim
    shape[axis] = -1
    return scale.reshape(shape)


def _quantize(call: Call) -> list[Array]:
    values, scale, zero = call.array(0), call.array(1), call.maybe(2)
    if values.dtype != np.float32 or call.attributes.get("block_size", 0):
        raise Unknown("of another type than float32, or in blocks")
    dtype = np.dtype(np.uint8) if zero is None else zero.dtype
    if dtype not in (np.uint8, np.int8):
        raise Unknown(f"to {dtype}")
    axis = int(call.attributes.get("axis", 1))
    steps = values / _along(values, scale, axis)
    if zero is None or zero.size == 1:
        return [rounded(steps, call.zero(2), dtype)]
    around = _along(values, zero.astype(np.int32), axis)
    return [saturated(np.clip(np.rint(steps), -(2**20), 2**20).astype(np.int32) + around, dtype)]


def _dequantize(call: Call) -> list[Array]:
    values, scale, zero = call.array(0), call.array(1), call.maybe(2)
    if scale.dtype != np.float32 or call.attributes.get("block_size", 0):
        raise Unknown("to another type than float32, or in blocks")
    axis = int(call.attributes.get("axis", 1))
    around = np.int32(0) if zero is None else _along(values, zero.astype(np.int32), axis)
    return [(values.astype(np.int32) - around).astype(np.float32) * _along(values, scale, axis)]


# ---- two operands


def _add(call: Call) -> list[Array]:
    first, second = call.array(0), call.array(3)
    a_scale, b_scale, c_scale = call.scale(1)[0], call.scale(4)[0], call.scale(6)[0]
    zeros = call.zero(2), call.zero(5), call.zero(7)
    ratios = a_scale / c_scale, b_scale / c_scale
    if call.numerics.sums_of_integers:
        return [_sum_of_integers(first, second, ratios, zeros)]
    return [_sum_of_floats(first, second, ratios, zeros)]


def _sum_of_floats(first: Array, second: Array, ratios: tuple[np.float32, ...], zeros: tuple[int, ...]) -> Array:
    """Two fused products onto what is the same for every element; x86 with AVX2."""
    a, b = (np.float32(r) for r in ratios)
    a_zero, b_zero, c_zero = (np.float32(z) for z in zeros)
    same = c_zero - fused_multiply_add(a, a_zero, b * b_zero)
    x, y = first.astype(np.float32), second.astype(np.float32)
    if first.size == 1 != second.size:
        total = fused_multiply_add(y, b, same + x * a)
    elif second.size == 1 != first.size:
        total = fused_multiply_add(x, a, same + y * b)
    else:
        total = fused_multiply_add(x, a, fused_multiply_add(y, b, same))
    return rounded(total, 0, first.dtype)


def _sum_of_integers(first: Array, second: Array, ratios: tuple[np.float32, ...], zeros: tuple[int, ...]) -> Array:
    """Both operands times integers of 22 bits, added, shifted back with ties away from zero; ARM."""
    greater = max(ratios)
    exponent = int(np.frexp(greater)[1]) - 1
    shift = _BITS - exponent
    if not all(2.0**-14 <= r < 256 for r in ratios) or shift not in _SHIFTS:
        raise Unknown("of scales that are far apart")
    a, b = (int(np.rint(np.float32(r) * np.float32(2.0**shift))) for r in ratios)
    a_zero, b_zero, c_zero = zeros
    total = (first.astype(np.int64) - a_zero) * a + (second.astype(np.int64) - b_zero) * b
    total += total >> 63  # one less where it is negative, so that halves go away from zero
    back = (total + (1 << (shift - 1))) >> shift
    return saturated(np.clip(back, -32768, 32767) + c_zero, first.dtype)


def _multiply(call: Call) -> list[Array]:
    first, second = call.array(0), call.array(3)
    scale = call.scale(1) * call.scale(4) / call.scale(6)
    product = (first.astype(np.int32) - call.zero(2)) * (second.astype(np.int32) - call.zero(5))
    zero = np.float32(call.zero(7))
    if call.numerics.fused_multiply_add:
        total = fused_multiply_add(product.astype(np.float32), scale, zero)
    else:
        total = product.astype(np.float32) * scale + zero
    return [rounded(total, 0, first.dtype)]


# ---- floats between DequantizeLinear and QuantizeLinear


def _float(call: Call) -> tuple[Array, ...]:
    operands = tuple(o for o in call.operands if o is not None)
    if any(o.dtype != np.float32 for o in operands):
        raise Unknown("of another type than float32")
    return operands


def _relu(call: Call) -> list[Array]:
    return [np.maximum(_float(call)[0], np.float32(0))]


def _prelu(call: Call) -> list[Array]:
    values, slope = _float(call)
    return [np.where(values < 0, values * slope, values)]


def _two(function: np.ufunc) -> Operator:
    def run(call: Call) -> list[Array]:
        first, second = _float(call)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return [function(first, second)]

    return run


OPERATORS: Mapping[str, Operator] = {
    "Add": _two(np.add),
    "DequantizeLinear": _dequantize,
    "Div": _two(np.divide),
    "Mul": _two(np.multiply),
    "PRelu": _prelu,
    "QLinearAdd": _add,
    "QLinearMul": _multiply,
    "QuantizeLinear": _quantize,
    "Relu": _relu,
    "Sub": _two(np.subtract),
}
"""IEEE 754 leaves no choice in one addition, subtraction, product or quotient of float32."""
