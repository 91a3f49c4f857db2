"""Write softmax(q k' s + mask) v as the one operator it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from passes.context import Context
from passes.contract import Kind, Pass
from passes.onnx_level.matching import factors, made_by, matchable, need_opset, only_user, rank, replace_node, size
from passes.onnx_level.rewriting import rewrite
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
        need_opset(program, "Attention", self.opset)

    def apply(self, program: Program, ctx: Context) -> Program:
        model = matchable(program)
        found = False
        for node in list(model.graph):  # matched one by one: what one gives, the next may take
            if (match := _match(node)) is not None:
                _replace(model.graph, match)
                found = True
        return rewrite(program.with_model(model), []) if found else program


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
    if q.dtype is None or q.dtype.name not in ("FLOAT", "FLOAT16"):
        return None
    if mask is not None and not _is_mask(mask, q, kt):
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
    for scores, mask in (add.inputs, add.inputs[::-1]):
        if made_by(_scaled(scores)[0], "MatMul") is not None:
            return scores, mask
    return None, None


def _scaled(value: ir.Value | None) -> tuple[ir.Value | None, float]:
    """What `value` is a constant multiple of, and the factor."""
    factor, varying = factors(value)
    return (varying[0], factor) if len(varying) == 1 else (value, 1.0)


def _is_mask(mask: ir.Value, q: ir.Value, kt: ir.Value) -> bool:
    """Two to four dimensions; the last two spell out the scores' size, which is what runtimes take."""
    if not 2 <= rank(mask) <= 4 or any(size(mask, i) is None for i in range(rank(mask))):
        return False
    if (size(mask, -2), size(mask, -1)) != (size(q, 2), size(kt, 3)):
        return False
    outer = range(-3, -rank(mask) - 1, -1)  # of samples and heads; a mask of more would make more scores
    return all(size(mask, i) in (1, size(q, i)) for i in outer)


def _replace(graph: ir.Graph, match: _Match) -> None:
    import onnx_ir

    k, made = _turned_back(match.kt)
    inputs = [match.q, k, match.v, *([match.mask] if match.mask is not None else [])]
    fused = onnx_ir.Node("", "Attention", inputs, [onnx_ir.AttrFloat32("scale", match.scale)], name=match.last.name)
    replace_node(graph, match.last, [*made, fused])


def _turned_back(kt: ir.Value) -> tuple[ir.Value, list[ir.Node]]:
    """k, of which `kt` has the last two axes swapped, and the node that makes it where there is none yet."""
    import onnx_ir

    if (k := _swapped_in_three_dimensions(kt)) is not None:
        return k, []
    turn = made_by(kt, "Transpose")
    perm = list(turn.attributes.get_ints("perm", [3, 2, 1, 0])) if turn is not None else [0, 1, 2, 3]
    source = turn.inputs[0] if turn is not None else kt
    assert source is not None
    perm[2], perm[3] = perm[3], perm[2]
    if perm == [0, 1, 2, 3]:
        return source, []
    swap = onnx_ir.Node("", "Transpose", [source], [onnx_ir.AttrInt64s("perm", perm)])
    swap.outputs[0].type = kt.type
    return swap.outputs[0], [swap]


def _swapped_in_three_dimensions(kt: ir.Value) -> ir.Value | None:
    """k, where `kt` is reshape(transpose(reshape(k))) with samples and heads as one axis: so torch exports it."""
    outer = made_by(kt, "Reshape")
    turn = made_by(outer.inputs[0], "Transpose") if outer is not None else None
    inner = made_by(turn.inputs[0], "Reshape") if turn is not None else None
    if turn is None or inner is None or list(turn.attributes.get_ints("perm", [])) != [0, 2, 1]:
        return None
    k, flat = inner.inputs[0], inner.outputs[0]
    if k is None or rank(k) != 4:
        return None
    pairs = [(size(flat, 1), size(k, 2)), (size(flat, 2), size(k, 3))]
    pairs += [(size(kt, i), size(k, j)) for i, j in enumerate((0, 1, 3, 2))]
    return k if all(a is not None and a == b for a, b in pairs) else None
