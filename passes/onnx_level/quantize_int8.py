"""Post-training static quantization to 8 bits: QuantizeLinear and DequantizeLinear with scales in the graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from passes.compare import sqnr_db
from passes.context import Context
from passes.contract import Kind, Pass, PassFailed
from passes.onnx_level.matching import only_user, size
from passes.onnx_level.quantizing import finished, quantizer_model, quantizing, refuse_quantized
from passes.onnx_level.ranges import Method, Ranges, activations, observe
from passes.onnx_level.weights import channel_axis
from passes.program import Program
from passes.proof import Proof
from targets.grouping import ANCHORS, EPILOGUES
from targets.support import load_rules

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["QuantizeInt8"]

_NARROWING = (0.0, 0.25, 0.5)
"""Shares of the layers left in float, worst weights first, tried in turn after first and last were left out."""


@dataclass(frozen=True)
class QuantizeInt8(Pass):
    """Activations in 8 bits by the range seen on calibration data, weights in int8, biases in int32.

    Args:
        activation: "uint8" (x86: onnxruntime's integer kernels want it) or "int8" (ARM, TensorRT, Edge TPU).
        activation_symmetric: Zero point 0 for activations.
        per_channel: One scale for each output channel of a weight.
        ranges: "minmax", "percentile" or "entropy": how much of what an activation was seen to do is covered.
        percentile: Of the values that stay inside the range, in percent; for that method alone.
        samples: Calibration samples to read at most.
        least_channels: Dense convolutions with fewer input channels stay in float: integer kernels multiply in groups.
            Not in front of a pool, which would then take integers in the layout of floats, and slowly.
        exclude: Names of nodes that stay in float, with the activation behind them.

    Source: Jacob et al. 2018, arXiv:1712.05877; Nagel et al. 2021, arXiv:2106.08295.
    """

    activation: Literal["uint8", "int8"] = "int8"
    activation_symmetric: bool = False
    per_channel: bool = True
    ranges: Method = "minmax"
    percentile: float = 99.999
    samples: int = 128
    least_channels: int = 1
    exclude: tuple[str, ...] = ()
    kind = Kind.APPROXIMATE
    needs = frozenset({"constants_folded", "batch_norm_folded"})
    gives = frozenset({"int8"})

    def requires(self, program: Program, ctx: Context) -> None:
        if ctx.data is None:
            raise PassFailed(
                "no calibration data was given, and random data is not used in its place",
                hint="give samples with --data",
            )
        first = next(iter(ctx.data), None)
        if first is None:
            raise PassFailed("the calibration data has no samples", hint="give at least one with --data")
        program.signature.check_inputs(first)
        refuse_quantized(program)
        if program.opset < 13:
            raise PassFailed(
                f"per-channel scales need opset 13, the graph has {program.opset}",
                hint="export the model again with opset 18",
            )
        if not any(node.op_type in ANCHORS for node in program.graph):
            raise PassFailed("the graph has no convolution or matrix product to quantize", hint="nothing to do")

    def apply(self, program: Program, ctx: Context) -> Program:
        with quantizing():
            from onnxruntime.quantization import QuantType
            from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

            types = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}
            model = quantizer_model(program)
            operators = _operator_types(program, ctx)
            quantizer = QDQQuantizer(
                model,
                self.per_channel,
                False,
                QuantType.QInt8,
                types[self.activation],
                _tensors_data(self._ranges(program, ctx, operators)),
                [],
                self._left_in_float(program),
                operators,
                {"ActivationSymmetric": self.activation_symmetric, "WeightSymmetric": True},
            )
            quantizer.quantize_model()
        return finished(program, quantizer.model.model)

    def _left_in_float(self, program: Program) -> list[str]:
        convs = [n for n in program.graph if n.op_type == "Conv" and _is_narrow(n, self.least_channels)]
        narrow = [n for n in convs if not _feeds_a_pool(n)]
        named = [n for n in program.graph if n.name in self.exclude]
        behind = [only_user(n.outputs[0]) for n in (*narrow, *named) if n.op_type in ANCHORS]
        activation = [n for n in behind if n is not None and n.op_type in EPILOGUES["relu"]]
        return sorted({*self.exclude, *(n.name for n in (*narrow, *activation) if n.name)})

    def _ranges(self, program: Program, ctx: Context, operators: Sequence[str]) -> Ranges:
        """Observed once for a graph, however often the pass is narrowed on it."""
        assert ctx.data is not None
        data = ctx.data.take(self.samples)
        model = quantizer_model(program)
        tensors = activations(model, operators)
        key = f"ranges {self.ranges} {self.percentile} {data.digest} {tensors}"
        return program.kept(key, lambda: observe(model, data, tensors, self.ranges, self.percentile, ctx.progress))

    def narrower(self, before: Program, ctx: Context, proof: Proof) -> Pass | None:
        anchors = [n.name or "" for n in before.graph if n.op_type in ANCHORS and n.name]
        edges = {anchors[0], anchors[-1]} if anchors else set()
        worst = [name for name, _ in sorted(_weight_sqnr(before), key=lambda row: row[1])]
        for share in _NARROWING:
            chosen = edges | set(worst[: int(share * len(anchors))])
            excluded = tuple(name for name in anchors if name in chosen)
            if len(excluded) > len(self.exclude) and len(excluded) < len(anchors):
                return replace(self, exclude=excluded)
        return None


def _is_narrow(conv: ir.Node, least_channels: int) -> bool:
    weight = conv.inputs[1]
    channels = size(weight, 1) if weight is not None else None
    return isinstance(channels, int) and channels < least_channels and conv.attributes.get_int("group", 1) == 1


def _feeds_a_pool(conv: ir.Node) -> bool:
    user = only_user(conv.outputs[0])
    if user is not None and user.op_type in EPILOGUES["relu"]:
        user = only_user(user.outputs[0])
    return user is not None and user.op_type in ("MaxPool", "AveragePool")


def _tensors_data(ranges: Ranges) -> Any:
    """Ranges in the form that onnxruntime's quantizer takes."""
    from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData

    data = {name: TensorData(lowest=np.float32(low), highest=np.float32(high)) for name, (low, high) in ranges.items()}
    return TensorsData(CalibrationMethod.MinMax, data)


def _operator_types(program: Program, ctx: Context) -> list[str]:
    """All that onnxruntime quantizes; on an accelerator that takes integers alone, all that it runs as well."""
    from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

    usual = {*QLinearOpsRegistry, *QDQRegistry}
    if not ctx.stack.rules:
        return sorted(usual)
    present = {node.op_type for node in program.graph}
    return sorted(usual | (present & set(load_rules(ctx.stack.rules).operators)))


def _weight_sqnr(program: Program) -> list[tuple[str, float]]:
    """How well int8 with one scale a channel holds each layer's weights: (node name, dB)."""
    rows = []
    for node in program.graph:
        weight = node.inputs[1] if node.op_type in ANCHORS and len(node.inputs) > 1 else None
        if weight is None or weight.const_value is None or not node.name:
            continue
        values: Any = np.moveaxis(weight.const_value.numpy().astype(np.float64), channel_axis(node), 0)
        values = values.reshape(len(values), -1)
        scale = np.maximum(np.abs(values).max(axis=1, keepdims=True) / 127, 1e-12)
        noise = values - np.round(values / scale) * scale
        rows.append((node.name, sqnr_db(float(np.square(values).sum()), float(np.square(noise).sum()))))
    return rows
