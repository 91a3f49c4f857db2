"""What the passes share that stand on onnxruntime's quantizers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from passes.contract import PassFailed
from passes.onnxruntime import import_onnxruntime, mapped_errors
from passes.program import Program

if TYPE_CHECKING:
    import onnx

__all__ = ["finished", "quantizer_model", "quantizing", "refuse_quantized"]

_INTEGER = frozenset(
    {
        "QuantizeLinear",
        "DequantizeLinear",
        "QLinearConv",
        "QLinearMatMul",
        "ConvInteger",
        "MatMulInteger",
        "MatMulNBits",
    }
)


def refuse_quantized(program: Program) -> None:
    """Only a float graph can be quantized.

    Raises:
        PassFailed: it holds integer operators.
    """
    if any(node.op_type in _INTEGER for node in program.graph.all_nodes()):
        raise PassFailed("the graph is quantized already", hint="nothing to do")


def quantizer_model(program: Program) -> onnx.ModelProto:
    """The graph with the shapes that the quantizer reads, and the mark that says it need not infer them again."""
    import onnx
    import onnx.shape_inference

    model = onnx.load_model_from_string(program.onnx_bytes)
    del model.graph.value_info[:]  # stale shapes make the inference fail: onnxruntime issue 25890
    model = onnx.shape_inference.infer_shapes(model)
    onnx.helper.set_model_props(model, {"onnx.infer": "onnxruntime.quant"})
    return model


def finished(program: Program, quantized: onnx.ModelProto) -> Program:
    """The program with what a quantizer made of its graph."""
    import onnx_ir

    del quantized.metadata_props[:]
    quantized.producer_name, quantized.producer_version = program.model.producer_name or "", ""
    model = onnx_ir.from_proto(quantized)
    model.graph.sort()  # the quantizers append their nodes at the end
    return program.with_model(model)


@contextmanager
def quantizing() -> Iterator[None]:
    """Errors become ours; the quantizers talk through the root logger about a step that breaks exported graphs."""
    import_onnxruntime()
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with mapped_errors("quantizing"):
            yield
    finally:
        root.setLevel(level)
