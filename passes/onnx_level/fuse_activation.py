"""Write activations that were spelled out as the one operator they are, so that runtimes fuse them with Conv."""

from __future__ import annotations

from dataclasses import dataclass

from passes.context import Context
from passes.contract import Kind, Pass
from passes.onnx_level.rewriting import rewrite, typed
from passes.program import Program
from targets.support import runs

__all__ = ["FuseActivation"]

_BOUNDS = ("Clip", "Max", "Min", "Relu")


@dataclass(frozen=True)
class FuseActivation(Pass):
    """x * clip(x + 3, 0, 6) / 6 becomes HardSwish, where the stack has it; Relu, Min, Max and Clip chains one Clip.

    The Conv and its activation stay two nodes, which every runtime of `targets/grouping.py` computes in one go:
    ONNX has no operator for the pair.
    """

    kind = Kind.EXACT
    needs = frozenset({"constants_folded"})

    def apply(self, program: Program, ctx: Context) -> Program:
        from onnxscript.rewriter.rules import common as rules

        shaped = typed(program)
        chosen = [rules.successive_relu_rule]
        if all(v is None or v.dtype is not None for n in shaped.graph if n.op_type in _BOUNDS for v in n.inputs):
            # these rules read the type of the bounded tensor, and fail where a custom operator hides it
            chosen += [
                rules.successive_clip_rule,
                rules.successive_clip_relu_rule,
                rules.successive_relu_clip_rule,
                rules.min_max_rule,
                rules.max_min_rule,
            ]
        if program.opset >= 14 and runs(ctx.stack, "HardSwish"):
            chosen += rules.fuse_hardswish_rules().rules
        return rewrite(shaped, chosen)
