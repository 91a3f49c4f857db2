"""One graph in which every difference between a float graph and a quantized one can be switched on by itself.

Behind each activation that is rounded, and before each weight that is changed, stands a Where with a switch of its own
among the inputs. So any choice of layers in float is one run, not one quantized graph.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from passes.dataset import Array, Sample
from passes.onnx_level.sites import Rounding, Unit, Weight, units
from passes.onnxruntime import Session
from passes.program import Program

if TYPE_CHECKING:
    import onnx

__all__ = ["Switchboard"]


class Switchboard:
    """A float program and another that was made of it, with the units in which they differ.

    Args:
        float_program: The graph as it was; its answers are those of no switch.
        other: A graph of the same operators in which activations are rounded or weights changed.
    """

    def __init__(self, float_program: Program, other: Program) -> None:
        self.float_program = float_program
        self.units: tuple[Unit, ...] = units(float_program, other)
        self.outputs = [spec.name for spec in float_program.signature.outputs]

    def run(self, sample: Sample, on: Collection[str], tensors: Sequence[str] | None = None) -> dict[str, Array]:
        """`tensors` of one sample (the outputs, where None), with the units in `on` as the other graph has them."""
        switches = {_switch(i): np.array(unit.name in on) for i, unit in enumerate(self.units)}
        return self._session({**sample, **switches}, list(tensors) if tensors is not None else self.outputs)

    @cached_property
    def _session(self) -> Session:
        return Session(self.model.SerializeToString())

    @cached_property
    def model(self) -> onnx.ModelProto:
        """The graph with its switches, which also answers with the tensor of each unit."""
        import onnx
        from onnx import TensorProto, helper

        model = onnx.load_model_from_string(self.float_program.onnx_bytes)
        graph = model.graph
        made: dict[str, list[onnx.NodeProto]] = {}
        for position, unit in enumerate(self.units):
            graph.input.append(helper.make_tensor_value_info(_switch(position), TensorProto.BOOL, []))
            for weight in unit.weights:
                _switch_weight(graph, unit, weight, position)
            if unit.rounding is not None:
                made[unit.tensor] = list(_switched(graph, unit.tensor, unit.rounding, position))
        _place(graph, made)
        del graph.value_info[:]
        known = set(self.outputs)
        graph.output.extend(
            helper.make_tensor_value_info(unit.tensor, TensorProto.FLOAT, None)
            for unit in self.units
            if unit.tensor not in known and unit.op_type != "input"
        )
        return model


def _switch(position: int) -> str:
    return f"switch:{position}"


def _switch_weight(graph: onnx.GraphProto, unit: Unit, weight: Weight, position: int) -> None:
    """Let the node of `unit` read one of two constants."""
    from onnx import helper, numpy_helper

    name = f"{unit.name}:{weight.position}"
    stored = (weight.float_values, f"{name}:float"), (weight.values, f"{name}:changed")
    graph.initializer.extend(numpy_helper.from_array(np.ascontiguousarray(values), key) for values, key in stored)
    node = next(i for i, node in enumerate(graph.node) if node.name == unit.node)
    graph.node[node].input[weight.position] = name
    choose = helper.make_node("Where", [_switch(position), stored[1][1], stored[0][1]], [name], name=name)
    graph.node.insert(node, choose)


def _switched(graph: onnx.GraphProto, tensor: str, rounding: Rounding, position: int) -> Iterator[onnx.NodeProto]:
    """Nodes that make `tensor` of what was called so and is called `tensor:float` now; an input keeps its name."""
    from onnx import helper, numpy_helper

    is_input = any(value.name == tensor for value in graph.input)
    before, after = (tensor, f"{tensor}:seen") if is_input else (f"{tensor}:float", tensor)
    for node in graph.node:
        names = node.input if is_input else node.output
        for i, name in enumerate(names):
            if name == tensor:
                names[i] = after if is_input else before
    scale, zero = f"{tensor}:scale", f"{tensor}:zero"
    graph.initializer.append(numpy_helper.from_array(rounding.scale, scale))
    graph.initializer.append(_integers(rounding.zero_point, zero))
    axis: Mapping[str, Any] = {"axis": rounding.axis} if rounding.scale.size > 1 else {}
    yield helper.make_node("QuantizeLinear", [before, scale, zero], [f"{tensor}:integers"], f"{tensor}:q", **axis)
    yield helper.make_node(
        "DequantizeLinear", [f"{tensor}:integers", scale, zero], [f"{tensor}:rounded"], f"{tensor}:dq", **axis
    )
    yield helper.make_node("Where", [_switch(position), f"{tensor}:rounded", before], [after], f"{tensor}:where")


def _integers(values: Array, name: str) -> onnx.TensorProto:
    import onnx_ir

    if values.dtype.kind in "iu":
        from onnx import numpy_helper

        return numpy_helper.from_array(values, name)
    proto: onnx.TensorProto = onnx_ir.to_proto(onnx_ir.tensor(values, name=name))
    return proto


def _place(graph: onnx.GraphProto, made: Mapping[str, Sequence[onnx.NodeProto]]) -> None:
    """Put new nodes behind those that make what they read, inputs first: a graph is in the order of its nodes."""
    waiting = {nodes[0].input[0]: nodes for nodes in made.values()}
    old = list(graph.node)
    inputs = {value.name for value in graph.input}
    ordered = [node for name, nodes in waiting.items() if name in inputs for node in nodes]
    for node in old:
        ordered.append(node)
        for name in node.output:
            ordered += waiting.get(name, ())
    del graph.node[:]
    graph.node.extend(ordered)
