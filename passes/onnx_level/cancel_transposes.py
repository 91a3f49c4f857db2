"""Push transposes towards each other until they cancel: what converters from channel-last frameworks leave behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from passes.context import Context
from passes.contract import Kind, Pass
from passes.onnx_level.rewriting import rewrite, typed
from passes.program import Program

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["CancelTransposes"]

_UNARY = frozenset(
    "Abs Cast Ceil Clip Elu Erf Exp Floor Gelu HardSigmoid HardSwish LeakyRelu Log Mish Neg Not Reciprocal Relu Round "
    "Selu Sigmoid Sign Sin Softplus Softsign Sqrt Swish Tanh".split()
)
_BINARY = frozenset("Add Div Max Min Mul PRelu Pow Sub".split())


@dataclass(frozen=True)
class CancelTransposes(Pass):
    """Reshapes and transposes that follow each other become one or none; a transpose moves behind elementwise work.

    A transpose is moved only in a graph that has fewer of them afterwards; elsewhere the graph stays as it was.
    """

    kind = Kind.EXACT
    needs = frozenset({"constants_folded"})

    def apply(self, program: Program, ctx: Context) -> Program:
        merged = _merged(program)
        if _transposes(merged) < 2:
            return merged
        model = typed(merged).model
        while any(_pushed(model.graph, node) for node in list(model.graph) if node.op_type in _UNARY | _BINARY):
            pass
        pushed = _merged(merged.with_model(model))
        return pushed if _transposes(pushed) < _transposes(merged) else merged


def _merged(program: Program) -> Program:
    from onnxscript.rewriter.rules import common as rules

    return rewrite(
        program,
        [
            rules.transpose_transpose_rule,
            rules.no_op_transpose_rule,
            rules.unsqueeze_unsqueeze_rule,
            rules.no_op_cast_rule,
            rules.no_op_expand_rule,
        ],
    )


def _transposes(program: Program) -> int:
    return sum(node.op_type == "Transpose" for node in program.graph)


def _pushed(graph: ir.Graph, node: ir.Node) -> bool:
    """Turn f(transpose(x), c) into transpose(f(x, c')) where every operand allows it; whether that was done."""
    import onnx_ir

    operands = node.inputs if node.op_type in _BINARY else node.inputs[:1]
    perms = {tuple(t.attributes["perm"].as_ints()) for v in operands if (t := _transpose(v)) is not None}
    if len(perms) != 1 or node.domain or len(node.outputs) != 1:
        return False
    perm = perms.pop()
    replaced = [_before(graph, v, perm) for v in operands]
    if any(v is None for v in replaced):
        return False
    result = node.outputs[0]
    inner = onnx_ir.Node(
        "", node.op_type, [*replaced, *node.inputs[len(operands):]], list(node.attributes.values()), name=node.name
    )  # fmt: skip
    outer = onnx_ir.Node("", "Transpose", [inner.outputs[0]], [onnx_ir.AttrInt64s("perm", perm)])
    inner.metadata_props.update(node.metadata_props)
    inner.outputs[0].name, inner.outputs[0].type = f"{result.name}_before", result.type
    outer.name, outer.outputs[0].name = f"{node.name}_transpose", f"{result.name}_after"
    outer.outputs[0].type, outer.outputs[0].shape = result.type, result.shape
    for value in replaced:
        if value is not None and value.const_value is not None and value.name not in graph.initializers:
            graph.initializers[str(value.name)] = value
    name = result.name
    onnx_ir.convenience.replace_nodes_and_values(graph, node, [node], [inner, outer], [result], [outer.outputs[0]])
    outer.outputs[0].name = name
    return True


def _transpose(value: ir.Value | None) -> ir.Node | None:
    """The transpose that made `value` and that nothing else reads."""
    node = value.producer() if value is not None else None
    if node is None or node.op_type != "Transpose" or "perm" not in node.attributes or value is None:
        return None
    return node if len(value.uses()) == 1 and not value.is_graph_output() else None


def _before(graph: ir.Graph, value: ir.Value | None, perm: Sequence[int]) -> ir.Value | None:
    """The operand as it was before the transpose: its source, or a constant laid out to match."""
    node = _transpose(value)
    if node is not None:
        return node.inputs[0]
    if value is None or value.const_value is None:
        return None
    return _laid_out(graph, value, perm)


def _laid_out(graph: ir.Graph, value: ir.Value, perm: Sequence[int]) -> ir.Value | None:
    import onnx_ir

    assert value.const_value is not None
    array: Any = value.const_value.numpy()
    if array.ndim > len(perm):
        return None
    if array.size == 1:
        return value
    wide = array.reshape((1,) * (len(perm) - array.ndim) + array.shape)
    moved = np.ascontiguousarray(wide.transpose(np.argsort(perm)))
    name = f"{value.name}_{''.join(map(str, perm))}"
    if name in graph.initializers:
        return graph.initializers[name]
    tensor = onnx_ir.tensor(moved, name=name)
    return onnx_ir.Value(
        name=name, shape=onnx_ir.Shape(moved.shape), type=onnx_ir.TensorType(tensor.dtype), const_value=tensor
    )
