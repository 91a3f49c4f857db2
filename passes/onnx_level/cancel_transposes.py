"""Push transposes towards each other until they cancel: what converters from channel-last frameworks leave behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from passes.context import Context
from passes.contract import Kind, Pass
from passes.onnx_level.matching import made_by, matchable, rank, replace_node
from passes.onnx_level.rewriting import rewrite
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
        found = _merged(program)
        while (fewer := _with_fewer(found)) is not None:
            found = fewer
        return found


def _with_fewer(program: Program) -> Program | None:
    """The program with transposes moved, where that leaves fewer: first those that one node reads, then any."""
    if _transposes(program) < 2:
        return None
    for shared in (False, True):
        model = matchable(program)
        _push_all(model.graph, shared)
        moved = _merged(program.with_model(model))
        if _transposes(moved) < _transposes(program):
            return moved
    return None


def _transposes(program: Program) -> int:
    return sum(node.op_type == "Transpose" for node in program.graph)


# ---- what follows each other


def _merged(program: Program) -> Program:
    from onnxscript.rewriter.rules import common as rules

    if not any(node.op_type in ("Transpose", "Reshape", "Unsqueeze", "Cast", "Expand") for node in program.graph):
        return program
    model = program.clone()
    changed = [_merge(model.graph, node) for node in list(model.graph)]
    start = program.with_model(model) if any(changed) else program
    plain = rewrite(start, [rules.unsqueeze_unsqueeze_rule, rules.no_op_cast_rule, rules.no_op_expand_rule])
    return _without_identities(plain)


def _merge(graph: ir.Graph, node: ir.Node) -> bool:
    """Let a transpose or reshape read what the one before it reads; whether that was done."""
    if node.domain or node.op_type not in ("Transpose", "Reshape"):
        return False
    before = made_by(node.inputs[0], node.op_type)
    if node.op_type == "Reshape":
        target = node.inputs[1].const_value if node.inputs[1] is not None else None
        if before is None or target is None or 0 in target.numpy():
            return False  # a zero copies a size of the input
        node.replace_input_with(0, before.inputs[0])
        return True
    first, second = _perm(before), _perm(node)
    if second is not None and before is not None and first is not None:
        node.replace_input_with(0, before.inputs[0])
        second = [first[i] for i in second]
        _set_perm(node, second)
    elif second is None or second != sorted(second):
        return False
    if second == sorted(second):
        _replace_by_identity(graph, node)
    return True


def _perm(node: ir.Node | None) -> list[int] | None:
    """Of a transpose; without the attribute it turns the axes around."""
    if node is None or node.inputs[0] is None:
        return None
    if "perm" in node.attributes:
        return list(node.attributes["perm"].as_ints())
    axes = rank(node.inputs[0])
    return list(range(axes))[::-1] if axes >= 0 else None


def _set_perm(node: ir.Node, perm: Sequence[int]) -> None:
    import onnx_ir

    node.attributes["perm"] = onnx_ir.AttrInt64s("perm", perm)


def _replace_by_identity(graph: ir.Graph, node: ir.Node) -> None:
    import onnx_ir

    replace_node(graph, node, [onnx_ir.Node("", "Identity", [node.inputs[0]], name=node.name)])


def _without_identities(program: Program) -> Program:
    """The rules leave Identity behind; one between an input and an output of the graph has to stay."""
    import onnx_ir

    if not any(node.op_type == "Identity" for node in program.graph):
        return program
    model = program.clone()
    graph = model.graph
    for node in [n for n in graph if n.op_type == "Identity" and not n.domain]:
        source, result = node.inputs[0], node.outputs[0]
        if source is None:
            continue
        if result.is_graph_output():
            if source.producer() not in graph or source.is_graph_output():
                continue
            name = result.name
            graph.outputs[:] = [source if v is result else v for v in graph.outputs]
            source.type, source.shape = result.type, result.shape
            onnx_ir.convenience.replace_all_uses_with(result, source)
            graph.remove(node, safe=True)
            source.name = name
        else:
            onnx_ir.convenience.replace_all_uses_with(result, source)
            graph.remove(node, safe=True)
    return program.with_model(model)


# ---- moving behind elementwise work


def _push_all(graph: ir.Graph, shared: bool) -> None:
    """From the inputs to the outputs; `shared`: also where a transpose is read by several nodes."""
    laid_out: dict[tuple[str, tuple[int, ...]], ir.Value] = {}
    for node in list(graph):
        if node.op_type in _UNARY | _BINARY:
            _push(graph, node, shared, laid_out)
        else:
            _merge(graph, node)


def _push(graph: ir.Graph, node: ir.Node, shared: bool, laid_out: dict[tuple[str, tuple[int, ...]], ir.Value]) -> None:
    """Turn f(transpose(x), c) into transpose(f(x, c')) where every operand allows it."""
    import onnx_ir

    operands = node.inputs if node.op_type in _BINARY else node.inputs[:1]
    perms = {tuple(p) for v in operands if (p := _perm(_transpose(v, shared))) is not None}
    if len(perms) != 1 or node.domain or len(node.outputs) != 1:
        return
    perm = perms.pop()
    replaced = [_before(graph, v, perm, shared, laid_out) for v in operands]
    if any(v is None for v in replaced):
        return
    attributes = list(node.attributes.values())
    inner = onnx_ir.Node(
        "", node.op_type, [*replaced, *node.inputs[len(operands) :]], attributes, name=f"{node.name}_moved"
    )
    inner.metadata_props.update(node.metadata_props)
    inner.outputs[0].type = node.outputs[0].type
    shape = node.outputs[0].shape
    if shape is not None:
        inner.outputs[0].shape = onnx_ir.Shape([shape[i] for i in np.argsort(perm)])
    outer = onnx_ir.Node("", "Transpose", [inner.outputs[0]], [onnx_ir.AttrInt64s("perm", perm)])
    replace_node(graph, node, [inner, outer])


def _transpose(value: ir.Value | None, shared: bool) -> ir.Node | None:
    """The transpose that made `value` and that nothing else reads, unless `shared`."""
    node = made_by(value, "Transpose")
    if node is None or value is None:
        return None
    return node if shared or (len(value.uses()) == 1 and not value.is_graph_output()) else None


def _before(
    graph: ir.Graph,
    value: ir.Value | None,
    perm: tuple[int, ...],
    shared: bool,
    laid_out: dict[tuple[str, tuple[int, ...]], ir.Value],
) -> ir.Value | None:
    """The operand as it was before the transpose: its source, or a constant laid out to match."""
    node = _transpose(value, shared)
    if node is not None:
        return node.inputs[0]
    if value is None or value.const_value is None:
        return None
    array: Any = value.const_value.numpy()
    if array.ndim > len(perm):
        return None
    if array.size == 1:
        return value
    key = (str(value.name), perm)
    if key not in laid_out:
        wide = array.reshape((1,) * (len(perm) - array.ndim) + array.shape)
        laid_out[key] = _initializer(graph, f"{value.name}_{''.join(map(str, perm))}", wide.transpose(np.argsort(perm)))
    return laid_out[key]


def _initializer(graph: ir.Graph, name: str, array: Any) -> ir.Value:
    import onnx_ir

    taken = {v.name for v in (*graph.inputs, *graph.initializers.values())}
    taken |= {v.name for node in graph for v in node.outputs}
    while name in taken:
        name += "_"
    tensor = onnx_ir.tensor(np.ascontiguousarray(array), name=name)
    value = onnx_ir.Value(
        name=name, shape=onnx_ir.Shape(array.shape), type=onnx_ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.initializers[name] = value
    return value
