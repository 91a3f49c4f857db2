"""Store the large weights that int8 left in float as bytes: a smaller file for the same arithmetic."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from passes.context import Context
from passes.contract import Kind, Pass, PassFailed
from passes.dataset import Array
from passes.onnx_level.weights import channel_axis
from passes.program import Program
from targets.grouping import ANCHORS

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["StoreInBytes"]

_RECURRENT = ("LSTM", "GRU", "RNN")


@dataclass(frozen=True)
class StoreInBytes(Pass):
    """A float weight becomes int8 times one scale for each output channel, so that an element is off by half a step.

    Of recurrent layers, of tables that are looked up, and of layers that int8 left out. It is written as Cast and Mul,
    which runtimes compute once at load: a DequantizeLinear they would compute again at every run.

    Args:
        min_elements: Smaller weights stay as they are.

    Source: Jacob et al. 2018, arXiv:1712.05877 (scales of channels).
    """

    min_elements: int = 4096
    kind = Kind.APPROXIMATE
    needs = frozenset({"int8"})
    prepares = True  # what runs stays the same: there is no time to hold against it

    def requires(self, program: Program, ctx: Context) -> None:
        if not any(self._wanted(program.graph)):
            raise PassFailed(f"no weight of {self.min_elements} elements or more is in float", hint="nothing to do")

    def apply(self, program: Program, ctx: Context) -> Program:
        model = program.clone()
        for weight, axis in list(self._wanted(model.graph)):
            _store(model.graph, weight, axis)
        return program.with_model(model)

    def _wanted(self, graph: ir.Graph) -> Iterator[tuple[ir.Value, int]]:
        """Each weight once, with the axis that counts its outputs."""
        for weight in graph.initializers.values():
            tensor, uses = weight.const_value, list(weight.uses())
            if tensor is None or weight.is_graph_output() or weight.is_graph_input() or not uses:
                continue
            if tensor.dtype.name != "FLOAT" or tensor.size < self.min_elements or len(tensor.shape) < 2:
                continue
            axes = {_axis(use.node, use.idx) for use in uses}
            if len(axes) == 1 and (axis := axes.pop()) is not None:
                yield weight, axis % len(tensor.shape)


def _axis(node: ir.Node, position: int) -> int | None:
    """The axis that counts the outputs of what `node` reads at `position`; None where that is no weight."""
    if node.op_type in _RECURRENT and position in (1, 2):
        return 1
    if node.op_type == "Gather" and position == 0 and node.attributes.get_int("axis", 0) == 0:
        return 0
    return channel_axis(node) if node.op_type in ANCHORS and position == 1 else None


def _store(graph: ir.Graph, weight: ir.Value, axis: int) -> None:
    import onnx_ir

    assert weight.const_value is not None
    name, values = str(weight.name), weight.const_value.numpy()
    steps, scale = _in_steps(values, axis)
    parts = [_initializer(graph, f"{name}_bytes", steps), _initializer(graph, f"{name}_scale", scale)]
    widen = onnx_ir.Node("", "Cast", parts[:1], [onnx_ir.AttrInt64("to", onnx_ir.DataType.FLOAT)], name=f"{name}_widen")
    scaled = onnx_ir.Node("", "Mul", [widen.outputs[0], parts[1]], name=f"{name}_rescale")
    for node in (widen, scaled):
        node.outputs[0].name = f"{node.name}_result"
        node.outputs[0].shape, node.outputs[0].type = weight.shape, weight.type
    graph.insert_before(graph[0], [widen, scaled])
    onnx_ir.convenience.replace_all_uses_with(weight, scaled.outputs[0])
    del graph.initializers[name]


def _initializer(graph: ir.Graph, name: str, values: Array) -> ir.Value:
    import onnx_ir

    tensor = onnx_ir.tensor(values, name=name)
    value = onnx_ir.Value(
        name=name, shape=onnx_ir.Shape(values.shape), type=onnx_ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def _in_steps(values: Array, axis: int) -> tuple[Array, Array]:
    """int8 and the float32 scales that they are multiplied by, which broadcast."""
    others = tuple(i for i in range(values.ndim) if i != axis)
    largest = np.abs(values).max(axis=others, keepdims=True)
    scale = np.maximum(largest / 127, np.finfo(np.float32).tiny).astype(np.float32)
    return np.clip(np.rint(values / scale), -127, 127).astype(np.int8), scale
