"""Dynamic quantization of matrix products: int8 weights, activations in uint8 with a scale found at each run."""

from __future__ import annotations

from dataclasses import dataclass

from passes.context import Context
from passes.contract import Kind, Pass, PassFailed
from passes.onnx_level.quantizing import finished, quantizer_model, quantizing, refuse_quantized
from passes.program import Program
from targets.graph import read_workload

__all__ = ["QuantizeDynamic"]

_PRODUCTS = ("MatMul", "Gemm")
_CONVOLUTIONS = ("conv3x3", "conv", "pointwise", "depthwise")


@dataclass(frozen=True)
class QuantizeDynamic(Pass):
    """MatMul and Gemm with constant weights become MatMulInteger; no calibration data is needed.

    Only for networks of matrix products: onnxruntime runs dynamic convolutions about ten times slower than float32.
    `max_convolution_share` is the share of the multiply-accumulates that may be convolutions, which stay in float.

    Source: onnxruntime documentation, quantization, dynamic.
    """

    per_channel: bool = True
    max_convolution_share: float = 0.2
    exclude: tuple[str, ...] = ()
    kind = Kind.APPROXIMATE
    needs = frozenset({"constants_folded"})
    gives = frozenset({"int8"})

    def requires(self, program: Program, ctx: Context) -> None:
        if ctx.stack.quantization is None or not ctx.stack.quantization.dynamic:
            raise PassFailed(
                f"{ctx.stack.runtime} multiplies no integers with scales found at run time", hint="nothing to do"
            )
        refuse_quantized(program)
        macs = _macs_by_class(program)
        total = sum(macs.values())
        if not total:
            raise PassFailed("the graph has no matrix product outside of control flow", hint="nothing to do")
        share = sum(macs.get(name, 0) for name in _CONVOLUTIONS) / total
        if share > self.max_convolution_share:
            raise PassFailed(
                f"{share:.0%} of the arithmetic is convolution, which runs slower this way than in float",
                hint="static int8 suits it better",
            )

    def apply(self, program: Program, ctx: Context) -> Program:
        with quantizing():
            from onnxruntime.quantization import QuantType
            from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer
            from onnxruntime.quantization.quant_utils import QuantizationMode

            quantizer = ONNXQuantizer(
                quantizer_model(program),
                self.per_channel,
                False,
                QuantizationMode.IntegerOps,
                False,
                QuantType.QInt8,
                QuantType.QUInt8,
                None,
                [],
                list(self.exclude),
                list(_PRODUCTS),
                {"MatMulConstBOnly": True},
            )
            quantizer.quantize_model()
        return finished(program, quantizer.model.model)

    def ensures(self, before: Program, after: Program, ctx: Context) -> None:
        if not any(node.op_type == "MatMulInteger" for node in after.graph):
            raise PassFailed("no matrix product has constant weights", hint="nothing to do")


def _macs_by_class(program: Program) -> dict[str, int]:
    found: dict[str, int] = {}
    for op in read_workload(program.static_model).operators:
        found[op.op_class] = found.get(op.op_class, 0) + op.macs
    return found
