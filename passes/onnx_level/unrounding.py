"""A quantized graph with some of its units in float again: what that costs is asked of the result."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from passes.onnx_level.sites import Unit, key_of
from passes.program import Program

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["in_float"]


def in_float(quantized: Program, units: Sequence[Unit], chosen: Collection[str]) -> Program:
    """`quantized` with float operands, float weights and a float result in each of the units named in `chosen`.

    Args:
        units: All of them, as `passes.onnx_level.sites.units` finds them.
    """
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    model = quantized.clone()
    nodes = {key_of(node): node for node in model.graph}
    for unit in units:
        if unit.activation is not None and key_of(unit.activation) not in nodes and unit.node in nodes:
            _activate(model.graph, nodes[unit.node].outputs[0], unit.activation)
    for unit in units:
        if unit.name in chosen:
            if unit.node in nodes:
                _give_floats(model.graph, nodes[unit.node], unit)
            if unit.rounding is not None:
                _read_unrounded(model.graph, unit.tensor)
    RemoveUnusedNodesPass()(model)
    return quantized.with_model(model)


def _activate(graph: ir.Graph, value: ir.Value, activation: ir.Node) -> None:
    """Put the activation behind `value` for which the bounds of the integers stood."""
    import onnx_ir as ir

    users = tuple(value.uses())
    constants = [None if other is None else _held(graph, other) for other in activation.inputs[1:]]
    node = ir.Node("", activation.op_type, [value, *constants], activation.attributes.values(), name=activation.name)
    made = node.outputs[0]
    made.type, made.shape = value.type, value.shape
    made.name, value.name = value.name, f"{value.name}:sum"
    producer = value.producer()
    assert producer is not None
    graph.insert_after(producer, node)
    for use in users:
        use.node.replace_input_with(use.idx, made)


def _held(graph: ir.Graph, constant: ir.Value) -> ir.Value:
    import onnx_ir as ir

    name = f"{constant.name}:float"
    if name not in graph.initializers:
        graph.initializers.add(
            ir.Value(name=name, const_value=constant.const_value, shape=constant.shape, type=constant.type)
        )
    return graph.initializers[name]


def _give_floats(graph: ir.Graph, node: ir.Node, unit: Unit) -> None:
    """Operands that were rounded as they were before, and the weights of the float graph."""
    import onnx_ir as ir

    for position, value in enumerate(node.inputs):
        if (plain := _unrounded(value)) is not None:
            node.replace_input_with(position, plain)
    for weight in unit.weights:
        tensor = ir.tensor(weight.float_values, name=f"{unit.name}:{weight.position}")
        held = ir.Value(name=tensor.name, const_value=tensor, shape=ir.Shape(weight.float_values.shape),
                        type=ir.TensorType(tensor.dtype))  # fmt: skip
        graph.initializers.add(held)
        node.replace_input_with(weight.position, held)


def _read_unrounded(graph: ir.Graph, tensor: str) -> None:
    """Whoever reads the rounded `tensor` reads the float one instead, the caller too."""
    for node in graph:
        rounded = node.outputs[0]
        plain = _unrounded(rounded)
        if plain is not None and tensor in (plain.name, rounded.name):
            for use in tuple(rounded.uses()):
                use.node.replace_input_with(use.idx, plain)
            if rounded.is_graph_output():
                name = rounded.name
                rounded.name, plain.name = f"{name}:rounded", name
                plain.type, plain.shape = rounded.type, rounded.shape
                graph.outputs[next(i for i, v in enumerate(graph.outputs) if v is rounded)] = plain


def _unrounded(value: ir.Value | None) -> ir.Value | None:
    """The float tensor behind a pair of QuantizeLinear and DequantizeLinear."""
    back = value.producer() if value is not None else None
    if back is None or back.op_type != "DequantizeLinear" or back.inputs[0] is None:
        return None
    there = back.inputs[0].producer()
    return there.inputs[0] if there is not None and there.op_type == "QuantizeLinear" else None
