"""Write a layer normalisation that was spelled out as the one operator it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from passes.context import Context
from passes.contract import Kind, Pass, PassFailed
from passes.onnx_level.matching import made_by, number, only_user, rank, replace_node, size
from passes.onnx_level.rewriting import rewrite, typed
from passes.program import Program

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["FuseLayerNorm"]


@dataclass(frozen=True)
class FuseLayerNorm(Pass):
    """(x - mean) / sqrt(var + eps) * scale + bias over the last axes becomes LayerNormalization.

    Source: Ba, Kiros and Hinton 2016, arXiv:1607.06450.
    """

    opset: ClassVar[int] = 17
    kind = Kind.EXACT
    needs = frozenset({"constants_folded"})

    def requires(self, program: Program, ctx: Context) -> None:
        if program.opset < self.opset:
            raise PassFailed(
                f"LayerNormalization is an operator from opset {self.opset} on, this graph is in {program.opset}",
                hint="nothing to do: the stack's runtime recognises the parts or runs them",
            )

    def apply(self, program: Program, ctx: Context) -> Program:
        model = typed(program).model
        found = [match for node in list(model.graph) if (match := _match(node)) is not None]
        for match in found:
            _replace(model.graph, match)
        return rewrite(program.with_model(model), []) if found else program


@dataclass(frozen=True)
class _Match:
    """`last` gives what is normalised over the axes from `axis` on, times `scale`, plus `bias`."""

    x: ir.Value
    axis: int
    epsilon: float
    scale: ir.Value | None
    bias: ir.Value | None
    last: ir.Node


def _match(node: ir.Node) -> _Match | None:
    deviation, root = _ratio(node)
    square_root = made_by(root, "Sqrt")
    shifted = made_by(square_root.inputs[0], "Add") if square_root is not None else None
    if shifted is None or deviation is None:
        return None
    variance, epsilon = shifted.inputs[0], number(shifted.inputs[1])
    if epsilon is None:
        variance, epsilon = shifted.inputs[1], number(shifted.inputs[0])
    mean_square, centred = made_by(variance, "ReduceMean"), made_by(deviation, "Sub")
    if epsilon is None or mean_square is None or centred is None or not _is_square(mean_square.inputs[0], deviation):
        return None
    x, mean = centred.inputs[0], made_by(centred.inputs[1], "ReduceMean")
    if x is None or mean is None or mean.inputs[0] is not x:
        return None
    axis = _first_axis(mean, x)
    if (
        axis is None
        or axis != _first_axis(mean_square, x)
        or x.dtype is None
        or x.dtype.name not in ("FLOAT", "FLOAT16")
    ):
        return None
    last, scale = _times_constant(node, "Mul", x, axis)
    last, bias = _times_constant(last, "Add", x, axis) if scale is not None else (last, None)
    if scale is None and not all(isinstance(size(x, i), int) for i in range(axis, rank(x))):
        return None
    return _Match(x, axis, epsilon, scale, bias, last)


def _ratio(node: ir.Node) -> tuple[ir.Value | None, ir.Value | None]:
    """d and r of d / r, or of d * (1 / r)."""
    if node.op_type == "Div" and not node.domain:
        return node.inputs[0], node.inputs[1]
    if node.op_type == "Mul" and not node.domain:
        for d, other in ((node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])):
            if (inverse := made_by(other, "Reciprocal")) is not None:
                return d, inverse.inputs[0]
    return None, None


def _is_square(value: ir.Value | None, of: ir.Value) -> bool:
    product, power = made_by(value, "Mul"), made_by(value, "Pow")
    if product is not None:
        return product.inputs[0] is of and product.inputs[1] is of
    return power is not None and power.inputs[0] is of and number(power.inputs[1]) == 2


def _first_axis(mean: ir.Node, x: ir.Value) -> int | None:
    """Where the averaged axes start, when they run to the last one and are kept."""
    if rank(x) < 1 or not mean.attributes.get_int("keepdims", 1):
        return None
    given = mean.inputs[1].const_value if len(mean.inputs) > 1 and mean.inputs[1] is not None else None
    axes = given.numpy().reshape(-1).tolist() if given is not None else mean.attributes.get_ints("axes", [])
    found = sorted(a % rank(x) for a in axes)
    return found[0] if found and found == list(range(found[0], rank(x))) else None


def _times_constant(node: ir.Node, op_type: str, x: ir.Value, axis: int) -> tuple[ir.Node, ir.Value | None]:
    """The node after `node` that multiplies or adds one constant for each normalised element, and the constant."""
    user = only_user(node.outputs[0])
    if user is None or user.op_type != op_type or user.domain:
        return node, None
    constant = user.inputs[1] if user.inputs[0] is node.outputs[0] else user.inputs[0]
    shape = [size(x, i) for i in range(axis, rank(x))]
    if constant is None or constant.const_value is None or list(constant.const_value.shape) != shape:
        return node, None
    return user, constant


def _replace(graph: ir.Graph, match: _Match) -> None:
    import onnx_ir

    assert match.x.dtype is not None
    scale = match.scale
    if scale is None:
        shape = [n for i in range(match.axis, rank(match.x)) if isinstance(n := size(match.x, i), int)]
        ones = np.ones(shape, match.x.dtype.numpy())
        name = f"{match.last.name}_scale"
        scale = onnx_ir.Value(
            name=name, shape=onnx_ir.Shape(ones.shape), type=match.x.type, const_value=onnx_ir.tensor(ones, name=name)
        )
        graph.initializers[name] = scale
    inputs = [match.x, scale, *([match.bias] if match.bias is not None else [])]
    attributes = [onnx_ir.AttrInt64("axis", match.axis), onnx_ir.AttrFloat32("epsilon", match.epsilon)]
    fused = onnx_ir.Node("", "LayerNormalization", inputs, attributes, name=match.last.name)
    replace_node(graph, match.last, [fused])
