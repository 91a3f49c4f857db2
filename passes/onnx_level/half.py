"""A float16 graph as a float32 one that rounds every result to float16.

onnxruntime has few float16 kernels for processors: it computes in float32 and removes the casts in between, so that
what overflows on the device does not overflow here. Casts that are written into the graph stay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["holds_float16", "rounding"]

_TYPED_BY_ATTRIBUTE = frozenset(
    "Bernoulli CastLike ConstantOfShape EyeLike Multinomial RandomNormal RandomNormalLike RandomUniform "
    "RandomUniformLike SequenceEmpty".split()
)


def holds_float16(model: ir.Model) -> bool:
    """Whether a weight or an intermediate result is in float16."""
    values = [*model.graph.initializers.values(), *(v for node in model.graph for v in node.outputs)]
    return any(_is_half(v) for v in values)


def rounding(model: ir.Model) -> ir.Model | None:
    """The graph that shows on this machine what the float16 one answers; None where it cannot be written.

    Sums are kept in float32 within an operator, as tensor cores keep them.
    """
    import onnx_ir
    from onnx_ir.passes.common import ShapeInferencePass

    if any(node.op_type in _TYPED_BY_ATTRIBUTE or _has_body(node) for node in model.graph):
        return None
    copy = ShapeInferencePass()(model.clone()).model  # a result whose type is not known would not be rounded
    graph = copy.graph
    if any(value.dtype is None for node in graph for value in node.outputs if value.name):
        return None
    wide = onnx_ir.TensorType(onnx_ir.DataType.FLOAT)
    weights = [v for v in graph.initializers.values() if _is_half(v) and v.const_value is not None]
    for value in [v for v in weights if not v.is_graph_output() and not v.is_graph_input()]:
        assert value.const_value is not None
        tensor = onnx_ir.tensor(value.const_value.numpy().astype("float32"), name=value.name)
        value.const_value, value.type = tensor, wide
    for value in [v for v in (*graph.inputs, *weights) if _is_half(v) and v.uses()]:
        users = list(value.uses())
        widened = _cast(value, onnx_ir.DataType.FLOAT, f"{value.name}_wide")
        graph.insert_before(graph[0], widened)
        for user, position in users:
            user.replace_input_with(position, widened.outputs[0])
    for node in list(graph):
        if node.op_type == "Cast" and node.attributes.get_int("to", 0) == onnx_ir.DataType.FLOAT16.value:
            node.attributes["to"] = onnx_ir.AttrInt64("to", onnx_ir.DataType.FLOAT.value)
        for value in [v for v in node.outputs if _is_half(v)]:
            _round(graph, node, value)
    return copy


def _round(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    """Put float32 -> float16 -> float32 behind `value`; an output of the graph stays float16."""
    import onnx_ir

    users = list(value.uses())
    name = value.name
    value.name, value.type = f"{name}_wide", onnx_ir.TensorType(onnx_ir.DataType.FLOAT)
    narrow = _cast(value, onnx_ir.DataType.FLOAT16, f"{name}_half")
    back = _cast(narrow.outputs[0], onnx_ir.DataType.FLOAT, f"{name}_rounded")
    graph.insert_after(node, [narrow, back])
    for user, position in users:
        user.replace_input_with(position, back.outputs[0])
    for i, output in enumerate(graph.outputs):
        if output is value:
            graph.outputs[i] = narrow.outputs[0]
            narrow.outputs[0].name = name


def _cast(value: ir.Value, to: ir.DataType, name: str) -> ir.Node:
    import onnx_ir

    node = onnx_ir.Node("", "Cast", [value], [onnx_ir.AttrInt64("to", to.value)], name=name)
    node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = name, onnx_ir.TensorType(to), value.shape
    return node


def _is_half(value: ir.Value) -> bool:
    return value.dtype is not None and value.dtype.name == "FLOAT16"


def _has_body(node: ir.Node) -> bool:
    return any(a.type.name in ("GRAPH", "GRAPHS") for a in node.attributes.values())
