"""Write a layer normalisation that was spelled out as the one operator it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from passes.context import Context
from passes.contract import Kind, Pass
from passes.onnx_level.matching import (
    made_by,
    matchable,
    need_opset,
    number,
    only_user,
    rank,
    replace_node,
    size,
    stands_alone,
)
from passes.onnx_level.rewriting import rewrite
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
        need_opset(program, "LayerNormalization", self.opset)

    def apply(self, program: Program, ctx: Context) -> Program:
        model = matchable(program)
        found = False
        for node in list(model.graph):  # matched one by one: what one norm gives, the next may take
            if (match := _match(node)) is not None:
                _replace(model.graph, match)
                found = True
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
    match = _quotient(node) or _shifted_product(node)
    if match is None or match.x.dtype is None or match.x.dtype.name not in ("FLOAT", "FLOAT16"):
        return None
    widths = [size(match.x, i) for i in range(match.axis, rank(match.x))]
    if match.scale is None and not all(isinstance(n, int) for n in widths):
        return None
    return match if stands_alone(match.last, match.x) else None


def _quotient(node: ir.Node) -> _Match | None:
    """d / r * scale + bias, with d = x - mean and r = sqrt(var + eps)."""
    deviation, root = _ratio(node)
    spread, centred = _spread(root), _centred(deviation)
    if spread is None or centred is None or not _equal(centred, spread[:2]):
        return None
    (x, axis), epsilon = centred, spread[2]
    last, scale = _times_constant(node, "Mul", x, axis)
    last, bias = _times_constant(last, "Add", x, axis) if scale is not None else (last, None)
    return _Match(x, axis, epsilon, scale, bias, last)


def _shifted_product(node: ir.Node) -> _Match | None:
    """x g + (bias - mean g) with g = scale / r, as TensorFlow writes it."""
    if node.op_type != "Add" or node.domain:
        return None
    for product, shift in (node.inputs, node.inputs[::-1]):
        scaled, offset = made_by(product, "Mul"), made_by(shift, "Sub")
        moved = made_by(offset.inputs[1], "Mul") if offset is not None else None
        if scaled is None or offset is None or moved is None:
            continue
        for x, gain in (scaled.inputs, scaled.inputs[::-1]):
            if x is None or gain is None or gain not in moved.inputs:
                continue
            mean = moved.inputs[1] if moved.inputs[0] is gain else moved.inputs[0]
            axis, (root, scale) = _mean_axis(mean, x), _gain(gain)
            spread = _spread(root)
            if spread is None or axis is None or scale is None or not _equal((x, axis), spread[:2]):
                continue
            if _is_constant_for(scale, x, axis) and _is_constant_for(offset.inputs[0], x, axis):
                return _Match(x, axis, spread[2], scale, offset.inputs[0], node)
    return None


def _gain(value: ir.Value) -> tuple[ir.Value | None, ir.Value | None]:
    """r and s of s / r."""
    product = made_by(value, "Mul")
    for inverse, scale in (product.inputs, product.inputs[::-1]) if product is not None else ():
        if (root := _inverse_of(inverse)) is not None:
            return root, scale
    return None, None


def _ratio(node: ir.Node) -> tuple[ir.Value | None, ir.Value | None]:
    """d and r of d / r, or of d * (1 / r)."""
    if node.op_type == "Div" and not node.domain:
        return node.inputs[0], node.inputs[1]
    if node.op_type == "Mul" and not node.domain:
        for d, other in (node.inputs, node.inputs[::-1]):
            if (root := _inverse_of(other)) is not None:
                return d, root
    return None, None


def _inverse_of(value: ir.Value | None) -> ir.Value | None:
    """r, where `value` is 1 / r."""
    node = made_by(value, "Reciprocal", "Div")
    if node is None or node.op_type == "Reciprocal":
        return node.inputs[0] if node is not None else None
    return node.inputs[1] if number(node.inputs[0], node.inputs[1]) == 1 else None


def _spread(root: ir.Value | None) -> tuple[ir.Value, int, float] | None:
    """x, the first axis and epsilon of sqrt(mean((x - mean(x))^2) + epsilon)."""
    square_root = made_by(root, "Sqrt")
    shifted = made_by(square_root.inputs[0], "Add") if square_root is not None else None
    for variance, constant in (shifted.inputs, shifted.inputs[::-1]) if shifted is not None else ():
        epsilon, mean_square = number(constant, variance), made_by(variance, "ReduceMean")
        square = mean_square.inputs[0] if mean_square is not None else None
        centred = _centred(_squared(square))
        if epsilon is not None and square is not None and centred is not None:
            return (*centred, epsilon) if _mean_axis(variance, square) == centred[1] else None
    return None


def _squared(value: ir.Value | None) -> ir.Value | None:
    """d, where `value` is d * d or d ** 2."""
    product, power = made_by(value, "Mul"), made_by(value, "Pow")
    if product is not None:
        return product.inputs[0] if product.inputs[0] is product.inputs[1] else None
    return power.inputs[0] if power is not None and number(power.inputs[1], power.inputs[0]) == 2 else None


def _centred(value: ir.Value | None) -> tuple[ir.Value, int] | None:
    """x and the first of the averaged axes, where `value` is x - mean(x)."""
    difference = made_by(value, "Sub")
    x = difference.inputs[0] if difference is not None else None
    axis = _mean_axis(difference.inputs[1], x) if difference is not None and x is not None else None
    return (x, axis) if x is not None and axis is not None else None


def _mean_axis(value: ir.Value | None, x: ir.Value) -> int | None:
    """Where the averaged axes start, when `value` is the mean of `x` up to the last one, with all axes kept."""
    mean = made_by(value, "ReduceMean")
    if mean is None or mean.inputs[0] is not x or rank(x) < 1 or not mean.attributes.get_int("keepdims", 1):
        return None
    given = mean.inputs[1].const_value if len(mean.inputs) > 1 and mean.inputs[1] is not None else None
    axes = given.numpy().reshape(-1).tolist() if given is not None else mean.attributes.get_ints("axes", [])
    found = sorted(a % rank(x) for a in axes)
    return found[0] if found and found == list(range(found[0], rank(x))) else None


def _equal(one: tuple[ir.Value, int], other: tuple[ir.Value, int]) -> bool:
    return one[0] is other[0] and one[1] == other[1]


def _times_constant(node: ir.Node, op_type: str, x: ir.Value, axis: int) -> tuple[ir.Node, ir.Value | None]:
    """The node after `node` that multiplies or adds one constant for each normalised element, and the constant."""
    user = only_user(node.outputs[0])
    if user is None or user.op_type != op_type or user.domain:
        return node, None
    constant = user.inputs[1] if user.inputs[0] is node.outputs[0] else user.inputs[0]
    return (user, constant) if _is_constant_for(constant, x, axis) else (node, None)


def _is_constant_for(value: ir.Value | None, x: ir.Value, axis: int) -> bool:
    shape = [size(x, i) for i in range(axis, rank(x))]
    return value is not None and value.const_value is not None and list(value.const_value.shape) == shape


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
