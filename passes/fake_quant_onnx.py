"""The fake-quantize operators as ONNX has them: QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from typing import Any

from onnxscript import opset18

__all__ = ["dequantize_linear", "quantize_dequantize"]

op: Any = opset18
_FLOAT = 1
_STORED = {(0, 255), (-128, 127)}


def quantize_dequantize(x: Any, scale: Any, zero_point: Any, low: int, high: int, axis: int) -> Any:
    """8 bits as they are stored; a narrower grid is cut to its ends first."""
    if (low, high) not in _STORED:
        zero = op.Cast(zero_point, to=_FLOAT)
        ends = [_along(op.Mul(op.Sub(float(end), zero), scale), scale, x, axis) for end in (low, high)]
        x = op.Min(op.Max(x, ends[0]), ends[1])
    return op.DequantizeLinear(op.QuantizeLinear(x, scale, zero_point, axis=axis), scale, zero_point, axis=axis)


def _along(ends: Any, scale: Any, x: Any, axis: int) -> Any:
    rank = len(x.shape)
    if len(scale.shape) == 0:
        return ends
    return op.Reshape(ends, op.Constant(value_ints=[-1 if d == axis % rank else 1 for d in range(rank)]))


def dequantize_linear(q: Any, scale: Any, zero_point: Any, axis: int) -> Any:
    """Weights and biases that are integers already. onnxruntime fuses Gemm only where they state their zero."""
    return op.DequantizeLinear(q, scale, zero_point, axis=axis)
