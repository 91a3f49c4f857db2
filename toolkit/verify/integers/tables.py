"""Operators that look each 8-bit integer up in a table of 256: joined tensors of other scales, slopes, sigmoids.

Source: onnxruntime 1.32, qlinear_lookup_table.cc, qlinear_concat.cc, qlinear_activations.cc.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from passes.dataset import Array
from toolkit.verify.integers.arithmetic import rounded
from toolkit.verify.integers.calls import Call, Operator
from toolkit.verify.integers.functions import sigmoid

__all__ = ["OPERATORS"]


def _looked_up(
    values: Array, scale: np.float32, zero: int, result_scale: np.float32, result_zero: int,
    function: Callable[[Array], Array] | None = None,
) -> Array:  # fmt: skip
    """Each stored number as a real one, through `function`, rounded to the result's scale."""
    limits = np.iinfo(values.dtype)
    every = np.arange(limits.min, limits.max + 1, dtype=np.int32)
    real = scale * (every - zero).astype(np.float32)
    table = rounded((real if function is None else function(real)) / result_scale, result_zero, values.dtype)
    made: Array = table[values.astype(np.int32) - limits.min]
    return made


def _concat(call: Call) -> list[Array]:
    scale, zero = call.scale(0)[0], call.zero(1)
    parts = []
    for position in range(2, len(call.operands), 3):
        values, own, own_zero = call.array(position), call.scale(position + 1)[0], call.zero(position + 2)
        same = own == scale and own_zero == zero
        parts.append(values if same else _looked_up(values, own, own_zero, scale, zero))
    return [np.concatenate(parts, int(call.attributes["axis"]))]


def _leaky_relu(call: Call) -> list[Array]:
    slope = np.float32(call.attributes.get("alpha", 0.01))
    return [
        _looked_up(
            call.array(0), call.scale(1)[0], call.zero(2), call.scale(3)[0], call.zero(4),
            lambda real: np.where(real >= 0, real, slope * real),
        )
    ]  # fmt: skip


def _sigmoid(call: Call) -> list[Array]:
    return [_looked_up(call.array(0), call.scale(1)[0], call.zero(2), call.scale(3)[0], call.zero(4), sigmoid)]


OPERATORS: Mapping[str, Operator] = {
    "QLinearConcat": _concat,
    "QLinearLeakyRelu": _leaky_relu,
    "QLinearSigmoid": _sigmoid,
}
