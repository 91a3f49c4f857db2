"""QuantizeLinear and DequantizeLinear: no work between operators, conversions where floats come and go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from toolkit.backends.litert.layout import View, identity
from toolkit.backends.litert.lowering import Lower, Lowering, Refused
from toolkit.backends.litert.reading import Step
from toolkit.backends.litert.tensors import Quantization, Tensor

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["LOWERINGS"]


def _quantize(lowering: Lowering, step: Step) -> None:
    q = lowering.scale_of(step.node)
    if not q.whole:
        raise Refused("rounds an activation to a scale for each channel")
    value = step.node.inputs[0]
    assert value is not None
    view = lowering.view(value)
    tensor = view.tensor
    if tensor.data is not None:
        known = tensor.quantization
        numbers = tensor.data.astype(np.float32) if known is None else known.real(tensor.data)
        stored = np.clip(np.rint(numbers / np.float32(q.step)) + q.zero_point[0], -128, 127).astype(np.int8)
        made = Tensor(tensor.name, tensor.shape, "int8", q, stored)
    elif lowering.edges.integers and _comes_in(lowering, value, q):
        tensor.dtype, tensor.quantization = "int8", q
        made = tensor
    else:
        made = lowering.requantized(tensor, q)
    lowering.set_view(step.output, View(made, view.order))


def _comes_in(lowering: Lowering, value: ir.Value, q: Quantization) -> bool:
    """Whether a value is an input that everyone who reads it rounds to `q`."""
    users = [use.node for use in value.uses()]
    return value.is_graph_input() and all(
        node.op_type == "QuantizeLinear" and lowering.scale_of(node) == q for node in users
    )


def _dequantize(lowering: Lowering, step: Step) -> None:
    source = step.node.inputs[0]
    assert source is not None
    if source.const_value is not None:
        lowering.set_view(step.output, _stored(lowering, step))
        return
    q, view = lowering.scale_of(step.node), lowering.view(source)
    if not q.whole:
        raise Refused("reads an activation with a scale for each channel")
    if view.tensor.quantization is None:
        view = _given(lowering, view, q)
    if view.tensor.quantization != q:
        raise Refused("reads integers of another scale than they were rounded to")
    lowering.set_view(step.output, view)


def _given(lowering: Lowering, view: View, q: Quantization) -> View:
    """An input of integers, whose scale the graph says where it is read."""
    tensor = view.tensor
    if tensor.dtype == "int8":
        tensor.quantization = q
        return view
    if tensor.dtype != "uint8":
        raise Refused(f"reads {tensor.dtype}")
    tensor.quantization = Quantization(q.scale, (q.zero_point[0] + 128,))
    return View(lowering.requantized(tensor, q), view.order)


def _stored(lowering: Lowering, step: Step) -> View:
    """A constant as int8 or int32 with its scales; as floats where the file has no such scales."""
    value = step.node.inputs[0]
    assert value is not None
    assert value.const_value is not None
    name = str(step.output.name)
    data = value.const_value.numpy()
    try:
        q = lowering.scale_of(step.node)
    except Refused:
        return View(Tensor(name, data.shape, "float32", data=_computed(step)), identity(data.ndim))
    if not q.whole:
        q = replace(q, axis=q.axis % data.ndim)
    kind = data.dtype.name
    stored = data.astype(np.int32)
    if kind in ("uint8", "uint4"):
        stored = stored - (128 if kind == "uint8" else 8)
    dtype = "int32" if kind == "int32" else "int8"
    return View(Tensor(name, data.shape, dtype, q, stored.astype(dtype)), identity(data.ndim))


def _computed(step: Step) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """What DequantizeLinear gives for constants with a scale for each block."""
    operands = [v.const_value.numpy() if v is not None and v.const_value is not None else None for v in step.inputs]
    data, scale, *rest = operands
    block = step.node.attributes.get_int("block_size", 0)
    if data is None or scale is None or not block or (rest and rest[0] is None):
        raise Refused("finds its scale at run time")
    axis = step.node.attributes.get_int("axis", 1) % data.ndim
    wide = [np.repeat(part.astype(np.float32), block, axis).take(range(data.shape[axis]), axis)
            for part in (scale, *(r for r in rest if r is not None))]  # fmt: skip
    zero = wide[1] if len(wide) > 1 else np.float32(0)
    real: np.ndarray[tuple[int, ...], np.dtype[np.float32]] = (data.astype(np.float32) - zero) * wide[0]
    return real


LOWERINGS: Mapping[str, Lower] = {"QuantizeLinear": _quantize, "DequantizeLinear": _dequantize}
