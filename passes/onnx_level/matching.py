"""Small questions that a hand-written match asks of a graph, and the replacement of what it found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from targets.graph import SOURCE_KEY

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["made_by", "number", "only_user", "rank", "replace_node", "size"]


def made_by(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The node that computes `value`, where it is a standard operator of one of these types."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type in op_types and not node.domain else None


def only_user(value: ir.Value) -> ir.Node | None:
    """The one node that reads `value`; None where there are more, or it is an output of the graph."""
    users = tuple(value.uses())
    return users[0].node if len(users) == 1 and not value.is_graph_output() else None


def number(value: ir.Value | None) -> float | None:
    """The constant of one element that `value` is."""
    tensor = value.const_value if value is not None else None
    return float(tensor.numpy().reshape(())) if tensor is not None and tensor.size == 1 else None


def rank(value: ir.Value) -> int:
    """Number of dimensions; -1 where it is not known."""
    return -1 if value.shape is None else len(value.shape)


def size(value: ir.Value, axis: int) -> int | str | None:
    """Size or symbol of a dimension; None where it is not known."""
    dim = value.shape[axis] if value.shape is not None else None
    return dim if dim is None or isinstance(dim, int) else dim.value


def replace_node(graph: ir.Graph, old: ir.Node, made: Sequence[ir.Node]) -> None:
    """Put `made` in the place of `old`; the output of the last takes over the name, type and users of the old one."""
    import onnx_ir

    result, last = old.outputs[0], made[-1].outputs[0]
    name = result.name
    last.type, last.shape = result.type, result.shape
    for i, node in enumerate(made):
        node.name = node.name or f"{old.name}_{i}"
        for output in node.outputs:
            output.name = output.name or f"{node.name}_out"
        if SOURCE_KEY in old.metadata_props:
            node.metadata_props.setdefault(SOURCE_KEY, old.metadata_props[SOURCE_KEY])
    onnx_ir.convenience.replace_nodes_and_values(graph, old, [old], made, [result], [last])
    last.name = name
