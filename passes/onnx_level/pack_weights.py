"""Store integers in as few bits as hold them: the same answers out of a smaller file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from passes.context import Context
from passes.contract import Kind, Pass, PassFailed
from passes.program import Program

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["PackWeights"]

_CAST_BYTES = 32
"""What a Cast and the name of its result take in the file, about."""

_CONVOLUTIONS = ("Conv", "ConvTranspose")

_SAID_TWICE = {("kernel_shape", "Conv"), ("axis", "QuantizeLinear"), ("axis", "DequantizeLinear")}
"""Attributes, with their operator, that the shape of the second input decides or makes void: a kernel, one scale."""

_PLAIN = {"dilations": 1, "strides": 1, "pads": 0}
"""What a convolution or pooling does where its attribute is absent: the schema says so in words alone."""


@dataclass(frozen=True)
class PackWeights(Pass):
    """Integers in fewer bits, with a Cast that the runtime computes once at load; nothing that says what is so anyway.

    int8 weights of -8 to 7, as training to 4 bits leaves them, are stored as INT4: onnxruntime folds the Cast before it
    looks for integer operators. int32 biases become the floats that they stand for, since their scales are those of
    input times weight: onnxruntime finds the integers again. Both compute with the same kernels as before. Attributes
    that hold their default and shapes between operators are left out, and equal constants are stored once.

    Source: ONNX, operators Cast-21, QuantizeLinear-21 and DequantizeLinear-21.
    """

    kind = Kind.EXACT
    needs = frozenset({"constants_folded"})
    gives = frozenset({"weights_packed"})
    prepares = True
    opset: ClassVar[int] = 21  # which brought INT4 and its Cast

    def requires(self, program: Program, ctx: Context) -> None:
        if program.opset < self.opset:
            raise PassFailed(
                f"4 bits need opset {self.opset}, the graph has {program.opset}",
                hint="choose a stack with a newer runtime",
            )

    def apply(self, program: Program, ctx: Context) -> Program:
        from onnx_ir.passes.common import DeduplicateInitializersPass, RemoveUnusedNodesPass

        model = program.clone()
        for graph in model.graphs():
            for node in [n for n in graph if _is_bias(n)]:
                _state(graph, node)
        for node in model.graph.all_nodes():
            _leave_out_zero_point(node)
            _leave_out_defaults(node, program.opset)
        DeduplicateInitializersPass()(model)
        RemoveUnusedNodesPass()(model)
        for graph in model.graphs():
            for value in [v for v in graph.initializers.values() if _fits_in_four_bits(v)]:
                _store_in_four_bits(graph, value)
        if not any(node.domain for node in model.graph.all_nodes()):
            _leave_out_shapes(model)
        return program.with_model(model)


def _is_bias(node: ir.Node) -> bool:
    stored = node.inputs[0].const_value if node.op_type == "DequantizeLinear" and node.inputs[0] is not None else None
    scale = node.inputs[1].const_value if stored is not None and node.inputs[1] is not None else None
    is_inner = not node.domain and not node.outputs[0].is_graph_output()
    return stored is not None and scale is not None and stored.dtype.name == "INT32" and is_inner


def _state(graph: ir.Graph, node: ir.Node) -> None:
    """The floats that a DequantizeLinear of constants makes, in its place. int32 have no zero point but zero."""
    import onnx_ir

    stored, scale = (value.const_value for value in node.inputs[:2] if value is not None)
    assert stored is not None
    assert scale is not None
    made = node.outputs[0]
    floats = stored.numpy().astype(scale.numpy().dtype) * scale.numpy()
    tensor = onnx_ir.tensor(floats, name=made.name)
    kind, shape = onnx_ir.TensorType(tensor.dtype), onnx_ir.Shape(floats.shape)
    value = onnx_ir.Value(name=made.name, shape=shape, type=kind, const_value=tensor)
    onnx_ir.convenience.replace_all_uses_with(made, value)
    graph.remove(node, safe=True)
    graph.register_initializer(value)


def _leave_out_zero_point(node: ir.Node) -> None:
    """The zeros that a convolution's weights are counted from; where there are none, that is meant.

    Others stay: without them onnxruntime computes a Gemm, and a Relu in front of a rounding, in float.
    """
    if node.domain or node.op_type != "DequantizeLinear" or len(node.inputs) < 3 or node.inputs[0] is None:
        return
    zero = node.inputs[2].const_value if node.inputs[2] is not None else None
    is_weight = node.inputs[0].const_value is not None and not node.outputs[0].is_graph_output()
    convolves = all(use.node.op_type in _CONVOLUTIONS for use in node.outputs[0].uses())
    if is_weight and convolves and zero is not None and not np.any(zero.numpy()):
        node.resize_inputs(2)


def _leave_out_shapes(model: ir.Model) -> None:
    """Of what lies between operators: every runtime infers those of the standard's."""
    for graph in model.graphs():
        for value in (value for node in graph for value in node.outputs):
            if not value.is_graph_output():
                value.shape = value.type = None


def _leave_out_defaults(node: ir.Node, opset: int) -> None:
    """Attributes that say what the operator does without them, or what its other inputs say."""
    import onnx.defs
    import onnx_ir

    if node.domain:
        return
    stated = onnx.defs.get_schema(node.op_type, opset, "").attributes
    plain = _PLAIN if node.op_type in (*_CONVOLUTIONS, "AveragePool", "MaxPool") else {}
    for name, attribute in list(node.attributes.items()):
        default = stated[name].default_value if name in stated else None
        is_default = (
            default is not None
            and default.type
            and onnx_ir.serde.deserialize_attribute(default).value == attribute.value
        )
        is_plain = name in plain and set(attribute.as_ints()) == {plain[name]}
        if is_default or is_plain or ((name, node.op_type) in _SAID_TWICE and _is_said(node)):
            node.attributes.pop(name)


def _is_said(node: ir.Node) -> bool:
    """Whether the weight of a convolution has a shape, and the scale of a rounding has none."""
    second = node.inputs[1]
    shape = second.shape if second is not None else None
    return shape is not None and (node.op_type == "Conv" or len(shape) == 0)


def _fits_in_four_bits(value: ir.Value) -> bool:
    """Whether these are integers that stand for floats, few of them different, and enough to be worth a Cast."""
    tensor = value.const_value
    if tensor is None or tensor.dtype.name != "INT8" or tensor.size < 2 * _CAST_BYTES or value.is_graph_output():
        return False
    is_weight = any(use.node.op_type in ("DequantizeLinear", "Gather") and use.idx == 0 for use in value.uses())
    return is_weight and bool(tensor.numpy().min() >= -8 and tensor.numpy().max() <= 7)


def _store_in_four_bits(graph: ir.Graph, value: ir.Value) -> None:
    import onnx_ir

    assert value.const_value is not None
    name, kind = str(value.name), onnx_ir.DataType.INT4
    stored = onnx_ir.tensor(value.const_value.numpy().astype(kind.numpy()), kind, f"{name}_stored")
    packed = onnx_ir.Value(name=stored.name, shape=value.shape, type=onnx_ir.TensorType(kind), const_value=stored)
    graph.register_initializer(packed)
    cast = onnx_ir.Node("", "Cast", [packed], [onnx_ir.AttrInt64("to", onnx_ir.DataType.INT8)], name=f"{name}_widen")
    widened = cast.outputs[0]
    widened.shape, widened.type = value.shape, value.type
    graph.insert_before(graph[0], cast)
    onnx_ir.convenience.replace_all_uses_with(value, widened)
    graph.initializers.pop(name)
    widened.name = name
