"""What the Edge TPU's compiler takes, operator by operator, and the partition that follows: a forecast, not its word.

Everything behind the first operator that it leaves to the host stays there as well: it makes one partition.

Source: Axis developer documentation, ARTPEC-7 supported operators (the same Edge TPU). SLICE, SOFTMAX, SPACE_TO_DEPTH,
SPLIT, SUM, TRANSPOSE and TRANSPOSE_CONV are in wide use, but were not read there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np

from toolkit.backends.litert.edgetpu import ON_CHIP, Mapped, Partition
from toolkit.backends.litert.tensors import Draft, Operator, Tensor

__all__ = ["forecast", "left_to_host"]

_SOFTMAX_ELEMENTS = 16_000
_BEHIND = "comes after an operator that stays on the host"


def forecast(draft: Draft) -> Partition:
    """Where the compiler is expected to put each operator; `compiler` says that it was not asked."""
    rows: Counter[tuple[str, str]] = Counter()
    left = False
    for operator in draft.operators:
        reason = left_to_host(operator)
        at_edge = operator.code in ("QUANTIZE", "DEQUANTIZE") and bool(reason)
        status = reason or (_BEHIND if left else ON_CHIP)
        left = left or (bool(reason) and not at_edge)
        rows[operator.code, status] += 1
    operators = tuple(Mapped(code, count, status) for (code, status), count in sorted(rows.items()))
    on_chip = sum(row.count for row in operators if row.status == ON_CHIP)
    return Partition("not asked: forecast from its published list", on_chip, len(draft.operators) - on_chip, operators)


def left_to_host(operator: Operator) -> str:
    """Why the compiler leaves an operator to the host; empty where it takes it."""
    if operator.code not in _LIMITS:
        return "is not in its list"
    tensors = [t for t in (*operator.inputs, *operator.outputs) if t is not None]
    if other := next((t.dtype for t in tensors if t.dtype != "int8" and t.data is None), ""):
        return f"computes in {other}"
    if any(size != 1 for t in tensors if t.data is None for size in t.shape[:-3]):
        return "has more than three dimensions beside a batch of one"
    return _LIMITS[operator.code](operator)


def _any(operator: Operator) -> str:
    return ""


def _plain(operator: Operator) -> str:
    return "has a fused activation function" if operator.options.get("fused_activation_function") else ""


def _concatenation(operator: Operator) -> str:
    fixed = [t for t in operator.inputs if t is not None and t.data is not None]
    zeros = all(t.data is not None and t.quantization is not None and not t.quantization.real(t.data).any()
                for t in fixed)  # fmt: skip
    return "joins constants that are not zero" if fixed and not (zeros and len(operator.inputs) == 2) else ""


def _square(operator: Operator) -> str:
    options = operator.options
    alike = options.get("dilation_h_factor", 1) == options.get("dilation_w_factor", 1)
    return "" if alike else "is dilated differently in height and width"


def _one_row(operator: Operator) -> str:
    shape = operator.outputs[0].shape
    return "" if all(size == 1 for size in shape[:-1]) else "gives more than one row"


def _softmax(operator: Operator) -> str:
    size = operator.outputs[0].shape[-1]
    return _one_row(operator) or ("" if size <= _SOFTMAX_ELEMENTS else f"has more than {_SOFTMAX_ELEMENTS} elements")


def _reduction(operator: Operator) -> str:
    x, where = operator.inputs[:2]
    axes = _numbers(where)
    if x is not None and axes is not None and len(x.shape) == 4:
        if 0 in axes:
            return "reduces the batch"
        if 3 in axes and x.shape[3] % 4:
            return "reduces channels that are no multiple of four"
    return ""


def _prelu(operator: Operator) -> str:
    slopes = operator.inputs[1]
    assert slopes is not None
    return "" if all(size == 1 for size in slopes.shape[:-1]) else "has slopes for each position"


def _unit_steps(operator: Operator) -> str:
    steps = _numbers(operator.inputs[3])
    return "" if steps is not None and set(steps) == {1} else "takes every other element"


def _numbers(tensor: Tensor | None) -> list[int] | None:
    return None if tensor is None or tensor.data is None else [int(v) for v in np.ravel(tensor.data)]


_LIMITS: Mapping[str, Callable[[Operator], str]] = {
    **dict.fromkeys(
        "ADD L2_NORMALIZATION LOGISTIC MAXIMUM MINIMUM MUL PAD QUANTIZE RELU RELU6 RELU_N1_TO_1 RESHAPE "
        "RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR SLICE SPACE_TO_DEPTH SPLIT SUB TANH TRANSPOSE TRANSPOSE_CONV".split(),
        _any,
    ),
    **dict.fromkeys("MEAN REDUCE_MAX REDUCE_MIN SUM".split(), _reduction),
    "AVERAGE_POOL_2D": _plain,
    "CONCATENATION": _concatenation,
    "CONV_2D": _square,
    "DEPTHWISE_CONV_2D": _square,
    "FULLY_CONNECTED": _one_row,
    "MAX_POOL_2D": _plain,
    "PRELU": _prelu,
    "SOFTMAX": _softmax,
    "STRIDED_SLICE": _unit_steps,
}
