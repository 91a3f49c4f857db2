"""Small questions that a hand-written match asks of a graph, and the replacement of what it found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from passes.contract import PassFailed
from passes.onnx_level.rewriting import typed
from passes.origins import inherit_origin
from passes.program import Program

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = [
    "factors",
    "made_by",
    "matchable",
    "need_opset",
    "number",
    "only_user",
    "rank",
    "replace_node",
    "size",
    "stands_alone",
]


def matchable(program: Program) -> ir.Model:
    """A copy of the graph as matches read it: types and shapes inferred, every constant an initializer.

    Raising an opset leaves constants as nodes: the axes of a mean, which were an attribute before opset 18.
    """
    from onnx_ir.passes.common import LiftConstantsToInitializersPass

    model: ir.Model = typed(program).model
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    return model


def need_opset(program: Program, operator: str, opset: int) -> None:
    """An operator can be written only in a graph whose opset has it.

    Raises:
        PassFailed: the graph is in an older one.
    """
    if program.opset < opset:
        raise PassFailed(
            f"{operator} is an operator from opset {opset} on, this graph is in {program.opset}",
            hint="nothing to do: the stack's runtime recognises the parts or runs them",
        )


def made_by(value: ir.Value | None, *op_types: str) -> ir.Node | None:
    """The node that computes `value`, where it is a standard operator of one of these types."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type in op_types and not node.domain else None


def only_user(value: ir.Value) -> ir.Node | None:
    """The one node that reads `value`; None where there are more, or it is an output of the graph."""
    users = tuple(value.uses())
    return users[0].node if len(users) == 1 and not value.is_graph_output() else None


def number(value: ir.Value | None, beside: ir.Value | None) -> float | None:
    """The constant of one element that `value` is, where its shape does not widen what is computed with `beside`."""
    tensor = value.const_value if value is not None else None
    if tensor is None or tensor.size != 1 or beside is None or len(tensor.shape) > rank(beside):
        return None
    return float(tensor.numpy().reshape(()))


def factors(value: ir.Value | None) -> tuple[float, list[ir.Value]]:
    """A product as a constant and what varies: of 0.5 * (x * g) it is 0.5, [x, g]; x ** 3 is x three times.

    A product that is read more than once counts as one factor.
    """
    node = made_by(value, "Mul", "Div", "Pow")
    if value is None or node is None or only_user(value) is None:
        return 1.0, [value] if value is not None else []
    left, right = node.inputs
    constant = number(right, left)
    if node.op_type == "Pow":
        return (1.0, [left] * int(constant)) if left is not None and constant in (2, 3) else (1.0, [value])
    if node.op_type == "Div":
        inner, varying = factors(left)
        return (inner / constant, varying) if constant else (1.0, [value])
    if constant is None:
        constant, left = number(left, right), right
    if constant is not None:
        inner, varying = factors(left)
        return inner * constant, varying
    (first, some), (second, others) = (factors(v) for v in node.inputs)
    return first * second, [*some, *others]


def stands_alone(last: ir.Node, *sources: ir.Value) -> bool:
    """Whether nothing else reads what `last` is computed from on the way from `sources`."""
    inner: set[ir.Node] = set()
    ahead = [last]
    while ahead:
        node = ahead.pop()
        inner.add(node)
        made = [v.producer() for v in node.inputs if v is not None and v not in sources]
        ahead += [n for n in made if n is not None and n not in inner]
    results = [v for node in inner - {last} for v in node.outputs]
    return not any(v.is_graph_output() or any(use.node not in inner for use in v.uses()) for v in results)


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
        node.name = node.name or f"{old.name or name}_{i}"
        for output in node.outputs:
            output.name = output.name or f"{node.name}_out"
        inherit_origin(node, old.metadata_props)
    onnx_ir.convenience.replace_nodes_and_values(graph, old, [old], made, [result], [last])
    last.name = name
