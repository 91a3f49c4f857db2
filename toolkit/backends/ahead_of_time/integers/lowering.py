"""A quantized graph becomes calls of integer kernels, and an island of what has no such kernel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from passes.onnx_level.matching import matchable
from passes.program import Program
from passes.structure import infer_shapes
from targets.errors import InvalidInput
from toolkit.backends.ahead_of_time.integers.drafting import Draft
from toolkit.backends.ahead_of_time.integers.elementwise import UNARY, combine, look_up, slope
from toolkit.backends.ahead_of_time.integers.endings import Ending
from toolkit.backends.ahead_of_time.integers.layers import convolve, multiply_matrix
from toolkit.backends.ahead_of_time.integers.moving import join, move, view
from toolkit.backends.ahead_of_time.integers.pooling import average_pool, largest, mean
from toolkit.backends.ahead_of_time.integers.quantities import quantity_of
from toolkit.backends.ahead_of_time.integers.values import Form, Held, Values, shape_of
from toolkit.backends.ahead_of_time.trace import Tensor

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["lowered_integers"]

_KERNELS: Mapping[str, Callable[[Values, ir.Node], Ending | None]] = {
    "Conv": convolve,
    "Gemm": multiply_matrix,
    "MatMul": multiply_matrix,
    "Add": combine,
    "Sub": combine,
    "Mul": combine,
    "PRelu": slope,
    "MaxPool": largest,
    "AveragePool": average_pool,
    "GlobalAveragePool": mean,
    "ReduceMean": mean,
    "Concat": join,
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"), view),
    **dict.fromkeys(("Transpose", "Slice", "Split", "Gather", "DepthToSpace", "SpaceToDepth"), move),
    **dict.fromkeys(UNARY, look_up),
}


def lowered_integers(program: Program) -> tuple[Draft, tuple[Tensor, ...], tuple[str, ...]]:
    """The program of a graph of static shapes that holds QuantizeLinear; its inputs, and what its outputs are.

    Raises:
        InvalidInput: the graph branches or loops.
    """
    import onnx_ir as ir

    model = matchable(program.with_model(infer_shapes(program.model)))
    values, done = Values(), set[ir.Node]()
    inputs = tuple(values.graph_input(i, v) for i, v in enumerate(model.graph.inputs))
    for node in model.graph:
        if node not in done:
            done.update(_lower(values, node))
    results = tuple(_result(values, v) for v in model.graph.outputs)
    return values.draft, inputs, results


def _lower(values: Values, node: ir.Node) -> tuple[ir.Node, ...]:
    """Nodes that are part of this one."""
    if not node.domain and node.op_type == "DequantizeLinear" and _dequantized(values, node):
        return ()
    if not node.domain and node.op_type == "QuantizeLinear" and _quantized(values, node):
        return ()
    kernel = _KERNELS.get(node.op_type) if not node.domain else None
    ending = kernel(values, node) if kernel is not None else None
    if ending is None:
        _leave(values, node)
        return ()
    return ending.inside


def _quantized(values: Values, node: ir.Node) -> bool:
    """The integers of a value: those that it has, in other steps, or those that it will be rounded to."""
    value = node.inputs[0]
    source = values.held.get(value) if value is not None else None
    quantity = quantity_of(node)
    read_by = {use.node.op_type for use in node.outputs[0].uses()}
    if source is None or quantity is None or source.dtype != "float32":
        return False
    if read_by - {"DequantizeLinear"}:
        return False
    if source.quantity is None:
        values.held[node.outputs[0]] = Held(source.shape, quantity=quantity, rounded=source)
    else:
        values.held[node.outputs[0]] = values.requantized(source, quantity)
    return True


def _dequantized(values: Values, node: ir.Node) -> bool:
    """Nothing happens: whoever reads the floats asks for them. Stored weights are read with what they are for."""
    value = node.inputs[0]
    if value is None or value.const_value is not None:
        return True
    held, quantity = values.held.get(value), quantity_of(node)
    if held is None or quantity is None:
        return False
    if held.quantity is None and held.dtype in ("int8", "uint8"):
        held = values.read_as(held, quantity)
    if held.quantity != quantity:
        return False
    values.held[node.outputs[0]] = held
    return True


def _leave(values: Values, node: ir.Node) -> None:
    """The operator is TVM's."""
    import onnx_ir as ir

    if any(
        attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for attribute in node.attributes.values()
    ):
        raise InvalidInput(
            f"{node.op_type} ({node.name or 'unnamed'}) branches or loops, which a quantized program cannot",
            hint="compile with --recipe float32, or for a stack with another runtime",
        )
    proto = ir.to_proto(node)
    for position, value in enumerate(node.inputs):
        if value is not None:
            proto.input[position] = values.in_island(value)
    for position, output in enumerate(node.outputs):
        if output.name:
            proto.output[position] = f"{output.name} {Form.PLAIN.value}"
            dtype = output.dtype.numpy().name if output.dtype is not None else "float32"
            values.held[output] = Held(shape_of(output), dtype, inside={Form.PLAIN: proto.output[position]})
    values.draft.island.nodes.append(proto)


def _result(values: Values, value: ir.Value) -> str:
    """The tensor that an output of the graph is."""
    held = values.held.get(value)
    if held is None:
        assert value.const_value is not None
        return values.draft.constant(value.const_value.numpy())
    assert value.dtype is not None
    if held.quantity is None or value.dtype.name == "FLOAT":
        return values.tensor(held, Form.PLAIN)
    return values.tensor(held, Form.FIRST) if value.dtype.name == "INT8" else values.unsigned(held)
