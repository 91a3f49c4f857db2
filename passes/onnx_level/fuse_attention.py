"""Write softmax(q k' s + mask) v as the one operator it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.context import Context
from passes.contract import Kind, Pass, PassFailed
from passes.onnx_level.matching import made_by, number, only_user, rank, replace_node, size
from passes.onnx_level.rewriting import rewrite, typed
from passes.program import Program

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["FuseAttention"]


@dataclass(frozen=True)
class FuseAttention(Pass):
    """Two matrix products with a softmax between them become Attention, on tensors of (batch, heads, length, width).

    As one operator it never holds the matrix of scores where the runtime knows how, and a quantizer leaves it whole.

    Source: Vaswani et al. 2017, arXiv:1706.03762; ONNX operator Attention, version 23.
    """

    opset: ClassVar[int] = 23
    kind = Kind.EXACT
    needs = frozenset({"constants_folded"})

    def requires(self, program: Program, ctx: Context) -> None:
        if program.opset < self.opset:
            raise PassFailed(f"Attention is an operator from opset {self.opset} on, this graph is in {program.opset}",
                             hint="nothing to do: the stack's runtime recognises the parts or runs them")  # fmt: skip

    def apply(self, program: Program, ctx: Context) -> Program:
        from onnxscript.rewriter.rules import common as rules

        model = typed(program).model
        found = [match for node in model.graph if (match := _match(node)) is not None]
        for match in found:
            _replace(model.graph, match)
        if not found:
            return program
        return rewrite(program.with_model(model), [rules.transpose_transpose_rule, rules.no_op_transpose_rule])


@dataclass(frozen=True)
class _Match:
    """q and kt are multiplied, v weighs; `kt` is k with its last two axes swapped."""

    q: ir.Value
    kt: ir.Value
    v: ir.Value
    mask: ir.Value | None
    scale: float
    last: ir.Node


def _match(softmax: ir.Node) -> _Match | None:
    if softmax.op_type != "Softmax" or softmax.domain or softmax.attributes.get_int("axis", -1) not in (-1, 3):
        return None
    last = only_user(softmax.outputs[0])
    if last is None or last.op_type != "MatMul" or last.inputs[0] is not softmax.outputs[0]:
        return None
    scores, mask = _scores_and_mask(softmax)
    scores, scale = _scaled(scores)
    product = made_by(scores, "MatMul")
    if product is None or only_user(product.outputs[0]) is None:
        return None
    q, first = _scaled(product.inputs[0])
    kt, second = _scaled(product.inputs[1])
    v = last.inputs[1]
    if q is None or kt is None or v is None or any(rank(x) != 4 for x in (q, kt, v, last.outputs[0])):
        return None
    if mask is not None and not _is_full_mask(mask, kt):
        return None
    if any(size(q, axis) is None or not size(q, axis) == size(kt, axis) == size(v, axis) for axis in (0, 1)):
        return None  # the products would broadcast, Attention would not
    return _Match(q, kt, v, mask, scale * first * second, last)


def _scores_and_mask(softmax: ir.Node) -> tuple[ir.Value | None, ir.Value | None]:
    """What the softmax is taken of; of a sum, the term that a matrix product made, and the other one as the mask."""
    value = softmax.inputs[0]
    add = made_by(value, "Add")
    if add is None or only_user(add.outputs[0]) is not softmax:
        return value, None
    for scores, mask in ((add.inputs[0], add.inputs[1]), (add.inputs[1], add.inputs[0])):
        if made_by(_scaled(scores)[0], "MatMul") is not None:
            return scores, mask
    return None, None


def _scaled(value: ir.Value | None) -> tuple[ir.Value | None, float]:
    """What `value` is a constant multiple of, and the factor."""
    node = made_by(value, "Mul", "Div")
    if node is None or only_user(node.outputs[0]) is None:
        return value, 1.0
    factor = number(node.inputs[1])
    if factor is not None:
        return node.inputs[0], factor if node.op_type == "Mul" else 1 / factor
    factor = number(node.inputs[0]) if node.op_type == "Mul" else None
    return (value, 1.0) if factor is None else (node.inputs[1], factor)


def _is_full_mask(mask: ir.Value, kt: ir.Value) -> bool:
    """Attention adds a mask of two to four dimensions that spells out the last one."""
    length = size(kt, 3)
    return 2 <= rank(mask) <= 4 and length is not None and size(mask, rank(mask) - 1) == length


def _replace(graph: ir.Graph, match: _Match) -> None:
    import onnx_ir

    swap = onnx_ir.Node("", "Transpose", [match.kt], [onnx_ir.AttrInt64s("perm", [0, 1, 3, 2])])
    swap.outputs[0].type = match.kt.type
    inputs = [match.q, swap.outputs[0], match.v, *([match.mask] if match.mask is not None else [])]
    fused = onnx_ir.Node("", "Attention", inputs, [onnx_ir.AttrFloat32("scale", match.scale)], name=match.last.name)
    replace_node(graph, match.last, [swap, fused])
