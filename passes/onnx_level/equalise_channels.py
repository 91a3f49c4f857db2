"""Give the channels between two layers weights of like size, so that one scale suits all of them."""

from __future__ import annotations

from dataclasses import dataclass

from passes.context import Context
from passes.contract import Kind, Pass, PassFailed
from passes.onnx_level.channel_seams import balance, seams
from passes.onnx_level.matching import matchable
from passes.onnx_level.quantizing import refuse_quantized
from passes.program import Program

__all__ = ["EqualiseChannels"]


@dataclass(frozen=True)
class EqualiseChannels(Pass):
    """Cross-layer equalisation: what makes channel c is divided by s[c], what reads it multiplied by it.

    s[c] = sqrt(made[c] / read[c]), of the largest weights on either side, over and over along chains of layers. Only
    where what is in between lets a positive factor through: Relu does, a Clip with an upper bound does not.

    Source: Nagel et al. 2019, arXiv:1906.04721, section 4.1.
    """

    kind = Kind.EXACT
    needs = frozenset({"constants_folded", "batch_norm_folded"})
    prepares = True  # the operators stay: there is no time to hold against it

    def requires(self, program: Program, ctx: Context) -> None:
        refuse_quantized(program)

    def apply(self, program: Program, ctx: Context) -> Program:
        model = matchable(program)
        found = [seam for seam in seams(model.graph) if seam.kind != "norm"]
        if not found:
            raise PassFailed("no two layers follow each other with nothing in between but a Relu", hint="nothing to do")
        return program.with_model(model) if balance(model.graph, found) else program
