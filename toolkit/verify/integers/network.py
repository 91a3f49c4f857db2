"""The network as onnxruntime runs it on a device: which operators become integer kernels is its decision, not ours.

onnxruntime's optimiser is asked here for the graph that it makes under the device's settings. Its second level turns
groups of QuantizeLinear, DequantizeLinear and an operator into integer operators (`QLinearConv` and so on); the third
only changes the order of axes in memory.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from passes.onnxruntime import Session, import_onnxruntime, mapped_errors
from targets.errors import InvalidInput
from toolkit.verify.integers.numerics import Numerics

__all__ = ["device_graph", "makes_integers", "watched"]

_GRAPHS = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
_SIGNED = "session.qdqisint8allowed"


def device_graph(model: bytes, numerics: Numerics) -> onnx.ModelProto:
    """What the device's onnxruntime makes of a model.

    Raises:
        InvalidInput: the model computes nothing in integers, branches, or is damaged.
    """
    nodes = _read(model).graph.node
    if inner := next((n for n in nodes if any(a.type in _GRAPHS for a in n.attribute)), None):
        raise InvalidInput(
            f"{inner.op_type} {inner.name!r} runs a graph of its own, which integers are not followed into",
            hint="export the network without branches and loops",
        )
    if not any(node.op_type == "QuantizeLinear" for node in nodes):
        raise InvalidInput(
            "this network holds no integers that are stated beforehand: none of its operators rounds to a stated scale",
            hint="compile it for a stack of 8-bit integers, with --data; `toolkit targets` lists them",
        )
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 4
    options.add_session_config_entry(_SIGNED, "1" if numerics.signed_activations else "0")
    with tempfile.TemporaryDirectory(prefix="toolkit-") as folder:
        made = Path(folder, "device.onnx")
        options.optimized_model_filepath = os.fspath(made)
        with mapped_errors("loading the model"):
            ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return onnx.load(made)


def _read(model: bytes) -> onnx.ModelProto:
    try:
        return onnx.load_from_string(model)
    except DecodeError as error:
        raise InvalidInput("the model's file is damaged", hint="compile again") from error


def watched(graph: onnx.ModelProto) -> Session:
    """`graph` in onnxruntime on this machine, giving the results of all its operators that make 8-bit integers."""
    shown = onnx.ModelProto()
    shown.CopyFrom(graph)
    known = {value.name for value in graph.graph.output}
    for node in graph.graph.node:
        for name in node.output:
            if name and name not in known and makes_integers(node):
                shown.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    return Session(shown.SerializeToString())


def makes_integers(node: onnx.NodeProto) -> bool:
    """By its kind: what other operators hand on was made by one of these."""
    return node.op_type == "QuantizeLinear" or node.op_type.startswith(("QLinear", "QGemm"))
