"""Operators of a .tflite that move numbers or keep the largest: nothing is rounded, numpy does as any kernel does."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from passes.dataset import Array
from toolkit.backends.litert.tensors import Operator
from toolkit.verify.integers.lite import LiteCall, LiteOperator
from toolkit.verify.integers.lite_products import limits, sides
from toolkit.verify.integers.products import window_rows

__all__ = ["OPERATORS"]


def _sides(call: LiteCall) -> list[tuple[int, int]]:
    return [(int(before), int(behind)) for before, behind in call.array(1)]


def _pad(call: LiteCall) -> list[Array]:
    """With zeros, which integers store as their zero point."""
    q = call.tensor(0).quantization
    return [np.pad(call.array(0), _sides(call), constant_values=q.zero_point[0] if q is not None else 0)]


def _pad_with(call: LiteCall) -> list[Array]:
    return [np.pad(call.array(0), _sides(call), constant_values=call.array(2).reshape(-1)[0])]


def _slice(call: LiteCall) -> list[Array]:
    sizes = call.operator.outputs[0].shape
    where = tuple(slice(int(b), int(b) + s) for b, s in zip(call.array(1).reshape(-1), sizes, strict=True))
    return [call.array(0)[where]]


def _pieces(values: Array, axis: int, operator: Operator) -> list[Array]:
    ends = np.cumsum([piece.shape[axis] for piece in operator.outputs])[:-1]
    return list(np.split(values, ends, axis))


def _max_pool(call: LiteCall) -> list[Array]:
    image = call.array(0)
    kernel = [int(call.option("filter_height")), int(call.option("filter_width"))]
    strides, before, after = sides(call, image.shape[1:3], kernel, [1, 1])
    lowest = -128 if image.dtype == np.int8 else -np.inf
    seen, _ = window_rows(np.moveaxis(image, -1, 1), kernel, strides, [1, 1], lowest, before, after)
    made: Array = seen.max((3, 4))
    if image.dtype == np.int8:
        low, high = limits(call, call.result)
        made = np.clip(made, np.int8(low), np.int8(high))
    return [made]


OPERATORS: Mapping[str, LiteOperator] = {
    "CONCATENATION": lambda call: [np.concatenate([o for o in call.operands if o is not None], call.option("axis"))],
    "PAD": _pad,
    "PADV2": _pad_with,
    "RESHAPE": lambda call: [call.array(0).reshape(call.operator.outputs[0].shape)],
    "SLICE": _slice,
    "SPLIT": lambda call: _pieces(call.array(1), int(call.array(0)), call.operator),
    "SPLIT_V": lambda call: _pieces(call.array(0), int(call.array(2)), call.operator),
    "TRANSPOSE": lambda call: [call.array(0).transpose(call.array(1).reshape(-1))],
}
