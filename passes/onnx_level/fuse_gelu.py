"""Write a GELU that was spelled out as the one operator it is."""

from __future__ import annotations

from dataclasses import dataclass
from math import isclose, pi, sqrt
from typing import TYPE_CHECKING, ClassVar

from passes.context import Context
from passes.contract import Kind, Pass
from passes.onnx_level.matching import factors, made_by, matchable, need_opset, number, rank, replace_node, stands_alone
from passes.onnx_level.rewriting import rewrite
from passes.program import Program

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["FuseGelu"]

_CUBIC = 0.044715


@dataclass(frozen=True)
class FuseGelu(Pass):
    """x (1 + erf(x / √2)) / 2 and its tanh form become Gelu, in whatever order the factors are multiplied.

    Spelled out, a quantizer rounds each of its five steps; as one operator it stays whole.

    Source: Hendrycks and Gimpel 2016, arXiv:1606.08415.
    """

    opset: ClassVar[int] = 20
    kind = Kind.EXACT
    needs = frozenset({"constants_folded"})

    def requires(self, program: Program, ctx: Context) -> None:
        need_opset(program, "Gelu", self.opset)

    def apply(self, program: Program, ctx: Context) -> Program:
        if not any(node.op_type in ("Erf", "Tanh") for node in program.graph):
            return program
        model = matchable(program)
        found = False
        for node in list(model.graph):
            if (match := _match(node)) is not None:
                _replace(model.graph, node, *match)
                found = True
        return rewrite(program.with_model(model), []) if found else program


def _match(node: ir.Node) -> tuple[ir.Value, str] | None:
    """x and which of the two forms, where `node` gives x * gate / 2."""
    if node.op_type not in ("Mul", "Div") or node.domain:
        return None
    constant, varying = _product(node)
    if len(varying) != 2 or not isclose(constant, 0.5, rel_tol=1e-5):
        return None
    for x, gate in (varying, varying[::-1]):
        approximate = _gate(gate, x)
        if approximate and x.dtype is not None and x.dtype.name in ("FLOAT", "FLOAT16") and stands_alone(node, x):
            return x, approximate
    return None


def _product(node: ir.Node) -> tuple[float, list[ir.Value]]:
    """The factors of what `node` gives, however often that is read."""
    left, right = node.inputs
    divisor = number(right, left)
    if node.op_type == "Div":
        constant, varying = factors(left)
        return (constant / divisor, varying) if divisor else (0.0, [])
    parts = [(number(v, w), v) for v, w in ((left, right), (right, left))]
    found = [(c, []) if c is not None else factors(v) for c, v in parts]
    return found[0][0] * found[1][0], [*found[0][1], *found[1][1]]


def _gate(gate: ir.Value, x: ir.Value) -> str:
    """ "none" where `gate` is 1 + erf(x / √2), "tanh" where it is the approximation of that, else nothing."""
    function = made_by(_plus_one(gate), "Erf", "Tanh")
    if function is None or rank(x) < 0:
        return ""
    constant, varying = factors(function.inputs[0])
    if function.op_type == "Erf":
        return "none" if isclose(constant, sqrt(0.5), rel_tol=1e-5) and varying == [x] else ""
    return "tanh" if isclose(constant, sqrt(2 / pi), rel_tol=1e-5) and _is_cubic(varying, x) else ""


def _plus_one(value: ir.Value) -> ir.Value | None:
    """v, where `value` is v + 1."""
    node = made_by(value, "Add")
    for v, one in (node.inputs, node.inputs[::-1]) if node is not None else ():
        if number(one, v) == 1:
            return v
    return None


def _is_cubic(varying: list[ir.Value], x: ir.Value) -> bool:
    """Whether the product is x + 0.044715 x^3, or x (1 + 0.044715 x^2)."""
    if len(varying) == 2 and x in varying:
        return _is_power(_plus_one(varying[varying[0] is x]), x, 2)
    node = made_by(varying[0], "Add") if len(varying) == 1 else None
    pairs = (node.inputs, node.inputs[::-1]) if node is not None else ()
    return any(first is x and _is_power(second, x, 3) for first, second in pairs)


def _is_power(value: ir.Value | None, x: ir.Value, exponent: int) -> bool:
    constant, varying = factors(value)
    return isclose(constant, _CUBIC, rel_tol=1e-5) and varying == [x] * exponent


def _replace(graph: ir.Graph, last: ir.Node, x: ir.Value, approximate: str) -> None:
    import onnx_ir

    attributes = [onnx_ir.AttrString("approximate", approximate)]
    replace_node(graph, last, [onnx_ir.Node("", "Gelu", [x], attributes, name=last.name)])
