"""Operators of one or two tensors element by element: a table, a sum, a product, slopes by channel."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

import numpy as np

from passes.dataset import Array
from passes.onnxruntime import Session
from toolkit.backends.ahead_of_time.integers.c_values import c_float
from toolkit.backends.ahead_of_time.integers.endings import Ending, ending_of
from toolkit.backends.ahead_of_time.integers.quantities import Quantity, constants_of, weights_of
from toolkit.backends.ahead_of_time.integers.values import Form, Held, Values, shape_of

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["UNARY", "combine", "look_up", "slope"]

UNARY = frozenset({
    "Abs", "Celu", "Clip", "Cos", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Log", "Mish",
    "Neg", "Reciprocal", "Relu", "Selu", "Sigmoid", "Sin", "Softplus", "Softsign", "Sqrt", "Tanh", "ThresholdedRelu",
})  # fmt: skip

_ALL = np.arange(-128, 128, dtype=np.int16)


def look_up(values: Values, node: ir.Node) -> Ending | None:
    """A function of one element between integers: onnxruntime computes its 256 results now."""
    source = values.held.get(node.inputs[0]) if node.inputs[0] is not None else None
    ending = ending_of(node.outputs[0])
    if source is None or source.quantity is None or ending.quantity is None:
        return None
    if len(list(constants_of(node))) != sum(v is not None for v in node.inputs[1:]):
        return None
    real = np.clip(_computed(node, source.quantity.real(_ALL)), ending.low, ending.high)
    values.held[ending.value] = values.looked_up(source, ending.quantity, ending.quantity.store(real))
    return ending


def _computed(node: ir.Node, given: Array) -> Array:
    import onnx_ir as ir
    from onnx import TensorProto, helper

    proto = ir.to_proto(node)
    tensors = []
    for value in constants_of(node):
        assert value.const_value is not None
        tensor = ir.to_proto(value.const_value)
        tensor.name = str(value.name)
        tensors.append(tensor)
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [256]) for n in (proto.input[0], proto.output[0])]
    graph = helper.make_graph([proto], "one", infos[:1], infos[1:], tensors)
    version = node.graph.opset_imports.get("", 18) if node.graph is not None else 18
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=9)
    return Session(model.SerializeToString())({proto.input[0]: given})[proto.output[0]]


def combine(values: Values, node: ir.Node) -> Ending | None:
    """An Add, Sub or Mul of two tensors of integers, of which one may be stretched; None where it is another."""
    ending = ending_of(node.outputs[0])
    if ending.quantity is None:
        return None
    shape = shape_of(node.outputs[0])
    first, second = (_operand(values, value) for value in node.inputs)
    signs = (1, -1 if node.op_type == "Sub" else 1)
    if first is None or second is None:
        return None
    if first.shape != shape:
        first, second, signs = second, first, signs[::-1]
    form = Form.LAST if (first.is_last or second.is_last) and not first.one_order else Form.FIRST
    sizes = _sizes(first, second, form)
    if first.shape != shape or sizes is None:
        return None
    result = Held(shape_of(ending.value), quantity=ending.quantity)
    beside = form if second.shape == first.shape else Form.FIRST
    reads = [values.tensor(first, form), values.tensor(second, beside)]
    pair = f"(integers_pair){{{', '.join(map(str, sizes))}}}"
    numbers = _sum if node.op_type != "Mul" else _product
    settings = [pair, *numbers(first, second, ending.quantity, signs), ending.range.literal]
    kernel = "integers_multiply" if node.op_type == "Mul" else "integers_add"
    values.draft.call(kernel, settings, reads, values.result(result, form))
    values.held[ending.value] = result
    return ending


def _operand(values: Values, value: ir.Value | None) -> Held | None:
    """A tensor of integers, or a stored one."""
    if value is None:
        return None
    held = values.held.get(value)
    if held is not None:
        return held if held.quantity is not None else None
    stored = weights_of(value)
    if stored is None or stored.scale.size != 1 or stored.values.dtype != np.int8:
        return None
    made = Held(stored.values.shape, quantity=Quantity(float(np.float32(stored.scale.reshape(()))), 0))
    made.tensors[Form.FIRST] = values.draft.constant(stored.values)
    if made.one_order:
        made.tensors[Form.LAST] = made.tensors[Form.FIRST]
    return made


def _sizes(first: Held, second: Held, form: Form) -> tuple[int, int, int, int, int] | None:
    """Fields of `integers_pair`; None where the second one is stretched in another way."""
    if first.shape == second.shape:
        return 1, 1, prod(first.shape), 1, 1
    rank = len(first.shape)
    shape = (1,) * (rank - len(second.shape)) + second.shape
    if form is Form.LAST:
        by_channel = shape[1:] == (first.channels, *(1,) * (rank - 2)) and shape[0] in (1, first.outer)
        return (first.outer, first.plane, first.channels, shape[0], 1) if by_channel else None
    stretched = next((i for i in range(rank) if shape[i:] == first.shape[i:]), rank)
    if prod(shape[:stretched]) != 1 or stretched == rank:
        return None
    return 1, prod(first.shape[:stretched]), prod(first.shape[stretched:]), 1, 1


def _sum(first: Held, second: Held, end: Quantity, signs: tuple[int, int]) -> list[str]:
    """Scales and offset in the order of onnxruntime's arithmetic (MlasQLinearAdd)."""
    assert first.quantity is not None
    assert second.quantity is not None
    a, b = (sign * q.step / end.step for q, sign in zip((first.quantity, second.quantity), signs, strict=True))
    return [c_float(n) for n in (a, b, -(a * np.float32(first.quantity.zero) + b * np.float32(second.quantity.zero)))]


def _product(first: Held, second: Held, end: Quantity, signs: tuple[int, int]) -> list[str]:
    assert first.quantity is not None
    assert second.quantity is not None
    scale = first.quantity.step * second.quantity.step / end.step
    return [str(first.quantity.zero), str(second.quantity.zero), c_float(scale)]


def slope(values: Values, node: ir.Node) -> Ending | None:
    """A PRelu with one slope for each channel, or for the last axis of rows."""
    source = values.held.get(node.inputs[0]) if node.inputs[0] is not None else None
    ending = ending_of(node.outputs[0])
    slopes = _real(node.inputs[1])
    if source is None or source.quantity is None or ending.quantity is None or slopes is None:
        return None
    rank = len(source.shape)
    shape = (1,) * (rank - slopes.ndim) + slopes.shape
    by_channel = rank > 2 and shape == (1, source.channels, *(1,) * (rank - 2))
    by_row = shape == (*(1,) * (rank - 1), source.shape[-1])
    if slopes.size != 1 and not (by_channel or by_row):
        return None
    form = Form.LAST if by_channel else Form.FIRST if slopes.size > 1 else values.integers(source)
    channels = source.channels if form is Form.LAST and not source.one_order else source.shape[-1]
    if by_channel:
        channels = source.channels
    ratio = source.quantity.step / ending.quantity.step
    negative = np.broadcast_to(ratio * slopes.reshape(-1).astype(np.float32), channels)
    settings = [str(prod(source.shape) // channels), str(channels), str(source.quantity.zero), c_float(ratio)]
    result = Held(shape_of(ending.value), quantity=ending.quantity)
    reads = [values.tensor(source, form), values.draft.constant(np.ascontiguousarray(negative))]
    values.draft.call("integers_prelu", [*settings, ending.range.literal], reads, values.result(result, form))
    values.held[ending.value] = result
    return ending


def _real(value: ir.Value | None) -> Array | None:
    if value is not None and value.const_value is not None:
        found: Array = value.const_value.numpy()
        return found
    stored = weights_of(value)
    return stored.values * stored.scale.astype(np.float32) if stored is not None and stored.scale.size == 1 else None
