"""Run a network as a device would, one operator after the other.

Operators that only move or compare numbers give the same bits on every machine and are left to onnxruntime. So is an
operator without arithmetic of its own here, and that one is named in the result: its answer may differ on the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from passes.dataset import Array, Sample
from passes.onnxruntime import Session
from toolkit.verify.integers import convolving, elementwise, functions, pooling, tables
from toolkit.verify.integers.calls import Call, Operator, Run, Unknown
from toolkit.verify.integers.network import device_graph, makes_integers
from toolkit.verify.integers.numerics import Numerics

__all__ = ["Device", "Run", "interpreter"]

_OPERATORS: Mapping[str, Operator] = {
    **convolving.OPERATORS, **elementwise.OPERATORS, **functions.OPERATORS, **pooling.OPERATORS, **tables.OPERATORS,
}  # fmt: skip

_MOVES = frozenset(
    "Concat DepthToSpace Expand Flatten Gather Identity Pad Reshape Shape Slice SpaceToDepth Split Squeeze Tile "
    "Transpose Unsqueeze ArgMax Clip GlobalMaxPool Max MaxPool Min ReduceMax ReduceMin".split()
)
"""Numbers come out as they went in, each of them one that went in: there is nothing to round."""


Device = Callable[[Sample], Run]
"""From the inputs by name to what a device makes of them."""


def interpreter(model: bytes, numerics: Numerics) -> Device:
    """A device that runs `model`, a serialized ONNX file with QuantizeLinear and DequantizeLinear.

    Raises:
        InvalidInput: the model computes nothing in integers.
    """
    return _Graph(device_graph(model, numerics), numerics)


class _Graph:
    def __init__(self, model: onnx.ModelProto, numerics: Numerics) -> None:
        self._model, self._numerics = model, numerics
        self._constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self._sessions: dict[int, Session] = {}

    def __call__(self, inputs: Sample) -> Run:
        values: dict[str, Array] = {**self._constants, **inputs}
        run = Run({}, {})
        for position, node in enumerate(self._model.graph.node):
            operands = [values[name] if name else None for name in node.input]
            results = self._results(position, node, operands, run)
            for name, array in zip(node.output, results, strict=False):
                values[name] = array
                if makes_integers(node) and array.dtype in (np.uint8, np.int8):
                    run.integers[name] = array
        run.outputs.update({o.name: values[o.name] for o in self._model.graph.output})
        return run

    def _results(
        self, position: int, node: onnx.NodeProto, operands: Sequence[Array | None], run: Run
    ) -> Sequence[Array]:
        if node.op_type in _MOVES:
            return self._by_onnxruntime(position, node, operands)
        try:
            operator = _OPERATORS.get(node.op_type)
            if operator is None:
                raise Unknown(_why(operands))
            return operator(Call(node, operands, self._numerics, _attributes(node)))
        except Unknown as reason:
            run.elsewhere[_called(node)] = f"{node.op_type} {reason}"
            return self._by_onnxruntime(position, node, operands)

    def _by_onnxruntime(self, position: int, node: onnx.NodeProto, operands: Sequence[Array | None]) -> Sequence[Array]:
        given = {name: value for name, value in zip(node.input, operands, strict=True) if value is not None}
        varying = {name: value for name, value in given.items() if name not in self._constants}
        if position not in self._sessions:
            self._sessions[position] = Session(_alone(self._model, node, given, varying))
        answers = self._sessions[position](varying)
        return [answers[name] for name in node.output if name]


def _why(operands: Sequence[Array | None]) -> str:
    if all(o is None or o.dtype.kind == "f" for o in operands):
        return "computes in floats, which processors add in orders of their own"
    return "has no arithmetic here"


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _called(node: onnx.NodeProto) -> str:
    return str(node.name or node.output[0])


def _alone(
    model: onnx.ModelProto, node: onnx.NodeProto, given: Mapping[str, Array], varying: Mapping[str, Array]
) -> bytes:
    """A network of this one operator; constants stay constants, whose form some kernels ask for."""
    stored = [numpy_helper.from_array(value, name) for name, value in given.items() if name not in varying]
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), [None] * value.ndim)
        for name, value in varying.items()
    ]
    outputs = [helper.make_empty_tensor_value_info(name) for name in node.output if name]
    graph = helper.make_graph([node], "alone", inputs, outputs, stored)
    made: bytes = helper.make_model(
        graph, opset_imports=model.opset_import, ir_version=model.ir_version, functions=model.functions
    ).SerializeToString()
    return made
