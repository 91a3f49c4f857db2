"""Post-training static quantization to 8 bits: QuantizeLinear and DequantizeLinear with scales in the graph."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from passes.compare import sqnr_db
from passes.context import Context
from passes.contract import Kind, Pass, PassFailed
from passes.dataset import Sample
from passes.onnxruntime import import_onnxruntime, mapped_errors
from passes.program import Program
from passes.proof import Proof
from targets.grouping import ANCHORS
from targets.support import load_rules

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
        samples: Calibration samples to read at most.
        exclude: Names of nodes that stay in float.

    Source: Jacob et al. 2018, arXiv:1712.05877; Nagel et al. 2021, arXiv:2106.08295.
    """

    activation: Literal["uint8", "int8"] = "int8"
    activation_symmetric: bool = False
    per_channel: bool = True
    samples: int = 128
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
        if any(node.op_type in ("QuantizeLinear", "QLinearConv", "ConvInteger") for node in program.graph):
            raise PassFailed("the graph is quantized already", hint="nothing to do")
        if program.opset < 13:
            raise PassFailed(
                f"per-channel scales need opset 13, the graph has {program.opset}",
                hint="export the model again with opset 18",
            )
        if not any(node.op_type in ANCHORS for node in program.graph):
            raise PassFailed("the graph has no convolution or matrix product to quantize", hint="nothing to do")

    def apply(self, program: Program, ctx: Context) -> Program:
        import onnx
        import onnx_ir

        import_onnxruntime()
        from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

        assert ctx.data is not None
        types = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}
        model = onnx.load_model_from_string(program.onnx_bytes)
        del model.graph.value_info[:]  # stale shapes make the quantizer's inference fail: onnxruntime issue 25890
        with tempfile.TemporaryDirectory() as folder, _quiet(), mapped_errors("quantizing"):
            path = Path(folder, "quantized.onnx")
            quantize_static(
                model,
                path,
                _Reader(ctx, self.samples),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=_operator_types(program, ctx),
                per_channel=self.per_channel,
                activation_type=types[self.activation],
                weight_type=QuantType.QInt8,
                nodes_to_exclude=list(self.exclude),
                calibrate_method=CalibrationMethod.MinMax,
                extra_options={"ActivationSymmetric": self.activation_symmetric, "WeightSymmetric": True},
            )
            quantized = onnx.load(path)
        del quantized.metadata_props[:]
        quantized.producer_name, quantized.producer_version = model.producer_name, model.producer_version
        return program.with_model(onnx_ir.from_proto(quantized))

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


class _Reader:
    """Hands onnxruntime one sample at a time; nothing is held."""

    def __init__(self, ctx: Context, limit: int) -> None:
        assert ctx.data is not None
        data = ctx.data.take(limit)
        self._samples: Iterator[Sample] = iter(data)
        self._count, self._done, self._progress = len(data), 0, ctx.progress

    def get_next(self) -> Sample | None:
        sample = next(self._samples, None)
        if sample is not None:
            self._done += 1
            self._progress("calibrating", self._done / self._count)
        return sample

    def __iter__(self) -> _Reader:
        return self

    def __next__(self) -> Sample:
        sample = self.get_next()
        if sample is None:
            raise StopIteration
        return sample


def _operator_types(program: Program, ctx: Context) -> list[str] | None:
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
        values: Any = np.moveaxis(weight.const_value.numpy().astype(np.float64), _channel_axis(node), 0)
        values = values.reshape(len(values), -1)
        scale = np.maximum(np.abs(values).max(axis=1, keepdims=True) / 127, 1e-12)
        noise = values - np.round(values / scale) * scale
        rows.append((node.name, sqnr_db(float(np.square(values).sum()), float(np.square(noise).sum()))))
    return rows


def _channel_axis(node: Any) -> int:
    """Which axis of a layer's weight counts its outputs."""
    if node.op_type == "Gemm":
        return 0 if node.attributes.get_int("transB", 0) else 1
    return {"Conv": 0, "ConvTranspose": 1}.get(node.op_type, -1)


@contextmanager
def _quiet() -> Iterator[None]:
    """onnxruntime's quantizer talks through the root logger about a step that breaks exported graphs."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
