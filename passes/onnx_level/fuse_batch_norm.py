"""Fold batch normalisation into the Conv, ConvTranspose or Gemm in front of it, and padding into Conv."""

from __future__ import annotations

from dataclasses import dataclass

from passes.context import Context
from passes.contract import Kind, Pass, PassFailed
from passes.onnx_level.rewriting import rewrite
from passes.program import Program

__all__ = ["FuseBatchNorm"]

_FOLDED_INTO = ("Conv", "ConvTranspose", "Gemm")


@dataclass(frozen=True)
class FuseBatchNorm(Pass):
    """What FoldBatchNorm does in the module, done in the graph: for models that come as ONNX or TorchScript."""

    kind = Kind.EXACT
    needs = frozenset({"constants_folded"})
    gives = frozenset({"batch_norm_folded"})

    def apply(self, program: Program, ctx: Context) -> Program:
        from onnxscript.rewriter.rules import common as rules

        return rewrite(
            program,
            [
                rules.fuse_batchnorm_into_conv_rule,
                rules.fuse_batchnorm_into_conv_transpose_rule,
                rules.fuse_batchnorm_into_gemm_rule,
                rules.conv_affine_fusion_rule,
                rules.affine_conv_fusion_rule,
                rules.normalize_pad_format_conv_rule,
                rules.fuse_pad_into_conv_rule,
            ],
        )

    def ensures(self, before: Program, after: Program, ctx: Context) -> None:
        for node in after.graph:
            producer = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
            if (
                node.op_type == "BatchNormalization"
                and producer is not None
                and producer.op_type in _FOLDED_INTO
                and len(producer.outputs[0].uses()) == 1
                and producer.inputs[1] is not None
                and len(producer.inputs[1].uses()) == 1
                and producer.outputs[0] not in after.graph.outputs
                and all(v is not None and v.const_value is not None for v in (*node.inputs[1:], producer.inputs[1]))
            ):
                raise PassFailed(
                    f"{node.name} could be folded and was not", hint="this is a bug in the pass: please report it"
                )
