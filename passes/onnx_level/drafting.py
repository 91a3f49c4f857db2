"""Write nodes that take the place of one that a graph has; nothing enters the graph before all are written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from passes.onnx_level.matching import replace_node
from passes.onnx_level.rewriting import rewriting_errors

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Draft", "store_once"]


class Draft:
    """The nodes and constants that are to compute what `old` computes; constants have the element type of `like`."""

    def __init__(self, old: ir.Node, like: ir.Value) -> None:
        assert like.dtype is not None
        self.old, self.dtype = old, like.dtype.numpy()
        self.nodes: list[ir.Node] = []
        self._constants: list[ir.Value] = []

    def op(self, op_type: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """The result of a new node."""
        import onnx_ir

        node = onnx_ir.node(op_type, inputs, attributes)
        self.nodes.append(node)
        return node.outputs[0]

    def constant(self, value: Any, dtype: Any = None) -> ir.Value:
        """A new initializer."""
        import onnx_ir

        array = np.asarray(value, dtype or self.dtype)
        tensor = onnx_ir.tensor(array)
        made = onnx_ir.Value(
            shape=onnx_ir.Shape(array.shape), type=onnx_ir.TensorType(tensor.dtype), const_value=tensor
        )
        self._constants.append(made)
        return made

    def times(self, value: ir.Value, factor: float) -> ir.Value:
        """`value` times a constant; itself where that is one."""
        return value if factor == 1 else self.op("Mul", value, self.constant(factor))

    def plus(self, value: ir.Value, term: float) -> ir.Value:
        """`value` plus a constant; itself where that is zero."""
        return value if term == 0 else self.op("Add", value, self.constant(term))

    def clipped(self, value: ir.Value, low: float, high: float) -> ir.Value:
        """`value` held between two constants."""
        return self.op("Clip", value, self.constant(low), self.constant(high))

    def commit(self, graph: ir.Graph) -> None:
        """Put the last node that was written, and those before it, in the place of the old one."""
        base, taken = self.old.outputs[0].name, graph.initializers
        number = 0
        for value in self._constants:
            while (name := f"{base}_k{number}") in taken:
                number += 1
            value.name = name
            graph.register_initializer(value)
        replace_node(graph, self.old, self.nodes)


def store_once(model: ir.Model) -> None:
    """Keep one of several equal constants, as the folding of constants does."""
    from onnx_ir.passes.common import DeduplicateInitializersPass

    with rewriting_errors():
        DeduplicateInitializersPass()(model)
