"""Write a GELU that was spelled out as the one operator it is."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi, sqrt
from typing import Any, ClassVar

from passes.context import Context
from passes.contract import Kind, Pass, PassFailed
from passes.onnx_level.rewriting import rewrite
from passes.program import Program

__all__ = ["FuseGelu"]


@dataclass(frozen=True)
class FuseGelu(Pass):
    """x (1 + erf(x / √2)) / 2 and its tanh form become Gelu.

    Spelled out, a quantizer rounds each of its five steps; as one operator it stays whole.

    Source: Hendrycks and Gimpel 2016, arXiv:1606.08415.
    """

    opset: ClassVar[int] = 20
    kind = Kind.EXACT
    needs = frozenset({"constants_folded"})

    def requires(self, program: Program, ctx: Context) -> None:
        if program.opset < self.opset:
            raise PassFailed(f"Gelu is an operator from opset {self.opset} on, this graph is in {program.opset}",
                             hint="nothing to do: the stack's runtime recognises the parts or runs them")  # fmt: skip

    def apply(self, program: Program, ctx: Context) -> Program:
        from onnxscript.rewriter import pattern

        if not any(node.op_type in ("Erf", "Tanh") for node in program.graph.all_nodes()):
            return program  # the patterns commute into hundreds, and take seconds to try
        rules = [
            pattern.RewriteRule(_halved(gate, order), _replacement(approximate))
            for gate, approximate in ((_erf_gate, "none"), (_tanh_gate, "tanh"))
            for order in range(3)
        ]
        return rewrite(program, pattern.RewriteRuleSet(rules, commute=True).rules)


def _erf_gate(op: Any, x: Any) -> Any:
    from onnxscript.rewriter import pattern

    return op.Erf(pattern.OrValue([op.Div(x, sqrt(2)), op.Mul(x, 1 / sqrt(2))])) + 1.0


def _tanh_gate(op: Any, x: Any) -> Any:
    from onnxscript.rewriter import pattern

    cube = pattern.OrValue([op.Pow(x, 3.0), op.Mul(op.Mul(x, x), x)])
    return op.Tanh(op.Mul(op.Add(x, op.Mul(cube, 0.044715)), sqrt(2 / pi))) + 1.0


def _halved(gate: Any, order: int) -> Any:
    """x * gate / 2, in the orders in which exporters multiply."""

    def matched(op: Any, x: Any) -> Any:
        if order == 0:
            return op.Mul(op.Mul(x, gate(op, x)), 0.5)
        if order == 1:
            return op.Mul(op.Mul(x, 0.5), gate(op, x))
        return op.Mul(x, op.Mul(gate(op, x), 0.5))

    return matched


def _replacement(approximate: str) -> Any:
    def gelu(op: Any, x: Any) -> Any:
        return op.Gelu(x, approximate=approximate)

    return gelu
