"""Post-training static quantization to 8 bits: QuantizeLinear and DequantizeLinear with scales in the graph."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from passes.context import Context
from passes.contract import Kind, Pass, PassFailed
from passes.onnx_level.harm import most_harmful
from passes.onnx_level.matching import only_user, size
from passes.onnx_level.quantizing import finished, quantizer_model, quantizing, refuse_quantized
from passes.onnx_level.ranges import Method, Ranges, activations, observe
from passes.program import Program
from passes.proof import Proof
from targets.grouping import ANCHORS, EPILOGUES
from targets.support import load_rules

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["QuantizeInt8"]

_NARROWING = (1, 2, 4, 8, 16, 32)
"""Layers left in float, the most harmful first, tried in turn."""


@dataclass(frozen=True)
class QuantizeInt8(Pass):
    """Activations in 8 bits by the range seen on calibration data, weights in int8, biases in int32.

    Args:
        activation: "uint8" (x86: onnxruntime's integer kernels want it) or "int8" (ARM, TensorRT, Edge TPU).
        activation_symmetric: Zero point 0 for activations.
        per_channel: One scale for each output channel of a weight.
        ranges: "minmax", "percentile", "entropy", "mse" or "best": how much of what an activation was seen to do is
            covered; see `passes.onnx_level.ranges.observe`.
        percentile: Of the values that stay inside the range, in percent; for that method and "best".
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
                self._left_in_float(program, operators, integers_only=bool(ctx.stack.rules)),
                operators,
                {"ActivationSymmetric": self.activation_symmetric, "WeightSymmetric": True},
            )
            quantizer.quantize_model()
        return replace(finished(program, quantizer.model.model), floating=program)

    def _left_in_float(self, program: Program, operators: Sequence[str], integers_only: bool) -> list[str]:
        convs = [n for n in program.graph if n.op_type == "Conv" and _is_narrow(n, self.least_channels)]
        narrow = [n for n in convs if not _feeds_a_pool(n)]
        named = [n for n in program.graph if n.name in self.exclude]
        behind = [only_user(n.outputs[0]) for n in (*narrow, *named) if n.op_type in ANCHORS]
        activation = [n for n in behind if n is not None and n.op_type in EPILOGUES["relu"]]
        left = {*self.exclude, *(n.name for n in (*narrow, *activation) if n.name)}
        return sorted(left if integers_only else left | set(_far_from_products(program.graph, operators, left)))

    def _ranges(self, program: Program, ctx: Context, operators: Sequence[str]) -> Ranges:
        """Observed once for a graph, however often the pass is narrowed on it."""
        assert ctx.data is not None
        data = ctx.data.take(self.samples)
        model = quantizer_model(program)
        tensors = activations(model, operators)
        symmetric = self.activation_symmetric
        key = f"ranges {self.ranges} {self.percentile} {symmetric} {data.digest} {tensors}"
        return program.kept(
            key,
            lambda: observe(model, data, tensors, self.ranges, self.percentile, ctx.progress, symmetric=symmetric),
        )

    def narrower(self, before: Program, ctx: Context, proof: Proof) -> Pass | None:
        order = self._by_harm(before, ctx)
        count = next((n for n in _NARROWING if n > len(self.exclude)), len(order))
        excluded = {*self.exclude, *order[:count]}
        anchors = {n.name for n in before.graph if n.op_type in ANCHORS}
        if len(excluded) == len(self.exclude) or anchors <= excluded:
            return None
        return replace(self, exclude=tuple(n.name for n in before.graph if n.name and n.name in excluded))

    def _by_harm(self, before: Program, ctx: Context) -> list[str]:
        """Measured once for a graph, with every layer quantized, however often the pass is narrowed on it."""
        whole = replace(self, exclude=())
        return before.kept(f"harm {whole.settings}", lambda: most_harmful(before, whole.apply(before, ctx), ctx))


def _is_narrow(conv: ir.Node, least_channels: int) -> bool:
    weight = conv.inputs[1]
    channels = size(weight, 1) if weight is not None else None
    return isinstance(channels, int) and channels < least_channels and conv.attributes.get_int("group", 1) == 1


def _far_from_products(graph: ir.Graph, operators: Collection[str], left: Collection[str]) -> list[str]:
    """Names of operators that could take integers, but that no integers reach from a product, nor leave towards one.

    Rounding there buys nothing: the squares and roots in front of a network that listens are such.
    """
    could = {node for node in graph if node.op_type in operators and node.name not in left}
    near: set[ir.Node] = set()
    ahead = [node for node in could if node.op_type in ANCHORS]
    while ahead:
        node = ahead.pop()
        if node not in near:
            near.add(node)
            makers = [value.producer() for value in node.inputs if value is not None]
            users = [usage.node for value in node.outputs for usage in value.uses()]
            ahead += [n for n in (*makers, *users) if n is not None and n in could]
    return [node.name for node in could - near if node.name]


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
