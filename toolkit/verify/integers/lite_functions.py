"""Functions of one 8-bit integer in a .tflite: a table of 256, or two multipliers.

Sources: TFLite, kernels/activations.cc and internal/reference/leaky_relu.h; XNNPACK, x8-lut and qs8-vlrelu.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from passes.dataset import Array
from toolkit.verify.integers.arithmetic import rounded
from toolkit.verify.integers.calls import Unknown
from toolkit.verify.integers.fixed_point import multiplied, multiplier
from toolkit.verify.integers.lite import LiteCall, LiteOperator

__all__ = ["OPERATORS"]

_INT8 = np.dtype(np.int8)


def _looked_up(function: Callable[[Array], Array]) -> LiteOperator:
    """Each of the 256 numbers is computed once, in float32."""

    def run(call: LiteCall) -> list[Array]:
        x, q = call.scale(0), call.result
        every = x.real(np.arange(-128, 128, dtype=np.int32))
        table = rounded(function(every).astype(np.float32) / np.float32(q.step), q.zero_point[0], _INT8)
        return [table[call.array(0).astype(np.int32) + 128]]

    return run


def _sigmoid(values: Array) -> Array:
    result: Array = np.float32(1) / (np.float32(1) + np.exp(-values))
    return result


def _relu(call: LiteCall) -> list[Array]:
    x, q = call.scale(0), call.result
    if x != q:
        raise Unknown("to another scale")
    return [np.maximum(call.array(0), np.int8(q.zero_point[0]))]


def _leaky_relu(call: LiteCall) -> list[Array]:
    x, q = call.scale(0), call.result
    around = call.array(0).astype(np.int64) - x.zero_point[0]
    ratio = np.float32(x.step) / np.float32(q.step)
    if call.numerics.multipliers == "float32":
        above, below = (
            (around * int(np.rint(np.float32(256) * scale)) + 128) >> 8
            for scale in (ratio, ratio * np.float32(call.option("alpha")))
        )
    else:
        above = multiplied(around, multiplier(x.step / q.step))
        below = multiplied(around, multiplier(x.step * float(np.float32(call.option("alpha"))) / q.step))
    made = np.where(around >= 0, above, below) + q.zero_point[0]
    return [np.clip(made, -128, 127).astype(np.int8)]


OPERATORS: Mapping[str, LiteOperator] = {
    "LEAKY_RELU": _leaky_relu,
    "LOGISTIC": _looked_up(_sigmoid),
    "RELU": _relu,
    "TANH": _looked_up(np.tanh),
}
