"""The fake-quantize operators as ONNX has them: QuantizeLinear and DequantizeLinear."""

from __future__ import annotations

from typing import Any

from onnxscript import opset18

__all__ = ["dequantize_linear", "quantize_dequantize"]

op: Any = opset18
_UINT8, _INT8 = 2, 3
_STORED = {_UINT8: (0, 255), _INT8: (-128, 127)}


def quantize_dequantize(x: Any, scale: Any, zero_point: Any, low: int, high: int, axis: int) -> Any:
    """8 bits as they are stored; a narrower grid is cut to its ends first."""
    kind = _INT8 if low < 0 else _UINT8
    if (low, high) != _STORED[kind]:
        ends = [op.Mul(op.Cast(op.Sub(end, zero_point), to=1), scale) for end in (low, high)]
        x = op.Min(op.Max(x, ends[0]), ends[1])
    zero = op.Cast(zero_point, to=kind)
    return op.DequantizeLinear(op.QuantizeLinear(x, scale, zero, axis=axis), scale, zero, axis=axis)


def dequantize_linear(q: Any, scale: Any, zero_point: Any, axis: int) -> Any:
    """Weights and biases that are integers already. onnxruntime fuses Gemm only where they state their zero."""
    return op.DequantizeLinear(q, scale, zero_point, axis=axis)
