"""One graph in which every difference between a float graph and a quantized one can be switched on by itself.

Each unit becomes an If with a switch of its own among the inputs: one branch as the float graph computes it, one with
changed weights and a rounded result. So any choice of layers in float is one run, not one quantized graph, and what a
branch does not need is not computed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from passes.dataset import Array, Sample
from passes.onnx_level.sites import Rounding, Unit, key_of, units
from passes.onnxruntime import Session
from passes.program import Program

if TYPE_CHECKING:
    import onnx

__all__ = ["Switchboard"]

_UNASKED = ("WeightBiasQuantization",)
"""Optimisers of onnxruntime that would quantize float weights which stand between rounded activations."""


class Switchboard:
    """A float program and another that was made of it, with the units in which they differ.

    Args:
        float_program: The graph as it was; its answers are those of no switch.
        other: A graph of the same operators in which activations are rounded or weights changed.
        by: See `passes.onnx_level.sites.units`.
    """

    def __init__(self, float_program: Program, other: Program, *, by: Literal["maker", "reader"] = "maker") -> None:
        self.float_program = float_program
        self.units: tuple[Unit, ...] = units(float_program, other, by=by)
        self.outputs = [spec.name for spec in float_program.signature.outputs]

    def run(self, sample: Sample, on: Collection[str], tensors: Sequence[str] | None = None) -> dict[str, Array]:
        """`tensors` of one sample (the outputs, where None), with the units in `on` as the other graph has them."""
        switches = {self.switch(unit): np.array(unit.name in on) for unit in self.units}
        return self._session({**sample, **switches}, list(tensors) if tensors is not None else self.outputs)

    def seen(self, unit: Unit) -> str:
        """The tensor of `unit` as the next operators read it; an input of the graph keeps its own name before that."""
        return f"{unit.tensor}:seen" if unit.op_type == "input" else unit.tensor

    def switch(self, unit: Unit) -> str:
        """The input of the graph that chooses for `unit`."""
        return f"switch:{unit.tensor}"

    @cached_property
    def _session(self) -> Session:
        return Session(self.model.SerializeToString(), without=_UNASKED)

    @cached_property
    def _types(self) -> dict[str, int]:
        """The element type of every tensor of the float graph, as onnx counts them."""
        graph = self.float_program.static_model.graph
        values = (*graph.inputs, *(v for node in graph for v in node.outputs))
        return {str(v.name): int(v.dtype) for v in values if v.dtype is not None}

    @cached_property
    def model(self) -> onnx.ModelProto:
        """The graph with its switches, which also answers with the tensor of each unit."""
        import onnx
        from onnx import TensorProto, helper

        model = onnx.load_model_from_string(self.float_program.onnx_bytes)
        graph = model.graph
        types = {value.name: value for value in (*graph.value_info, *graph.output)}
        behind = {self._last(unit): unit for unit in self.units}
        replaced = {node for unit in self.units for node in _nodes_of(unit)}
        named = {_key(node): node for node in graph.node}
        inputs = {unit.tensor for unit in self.units if unit.op_type == "input"}
        nodes = [self._choice(unit, named, graph) for unit in self.units if unit.op_type == "input"]
        for node in graph.node:
            if _key(node) in behind:
                nodes.append(self._choice(behind[_key(node)], named, graph))
            elif _key(node) not in replaced:
                nodes.append(node)
        made = {f"{name}:seen" for name in inputs}
        for node in nodes:
            if not made.intersection(node.output):
                _rename(node, {name: f"{name}:seen" for name in inputs})
        copies = [_copy(node) for node in nodes]
        del graph.node[:], graph.value_info[:]
        graph.node.extend(copies)
        graph.input.extend(helper.make_tensor_value_info(self.switch(u), TensorProto.BOOL, []) for u in self.units)
        wanted = [name for u in self.units if (name := self.seen(u)) not in self.outputs]
        graph.output.extend(
            types.get(name) or helper.make_tensor_value_info(name, self._type_of(name), None) for name in wanted
        )
        return model

    def _type_of(self, tensor: str) -> int:
        from onnx import TensorProto

        return self._types.get(tensor, TensorProto.FLOAT)

    def _last(self, unit: Unit) -> str:
        return _nodes_of(unit)[-1] if unit.node else ""

    def _choice(self, unit: Unit, nodes: Mapping[str, onnx.NodeProto], graph: onnx.GraphProto) -> onnx.NodeProto:
        """The If that stands for the nodes of `unit`."""
        from onnx import helper

        result = self.seen(unit)
        own = [nodes[name] for name in _nodes_of(unit)]
        kind = self._type_of(unit.tensor)
        branches = {
            key: _branch(unit, own, graph, kind, changed=changed)
            for key, changed in (("then_branch", True), ("else_branch", False))
        }
        return helper.make_node("If", [self.switch(unit)], [result], f"{unit.tensor}:choice", **branches)


def _nodes_of(unit: Unit) -> list[str]:
    """Keys of the float graph's nodes that make the unit, in their order."""
    return [key for key in (unit.node, key_of(unit.activation) if unit.activation is not None else "") if key]


def _key(node: onnx.NodeProto) -> str:
    return node.name or node.output[0]


def _branch(
    unit: Unit, nodes: Sequence[onnx.NodeProto], graph: onnx.GraphProto, kind: int, *, changed: bool
) -> onnx.GraphProto:
    """One form of the unit, as the body of an If; its own tensors carry the form in their name."""
    from onnx import helper, numpy_helper

    form = "changed" if changed else "float"
    inner = {name: f"{name}:{form}" for node in nodes for name in node.output if name}
    body, constants = [], []
    for node in nodes:
        copy = _copy(node)
        if _key(node) == unit.node:
            for weight in unit.weights:  # held by the branch: only so are they packed once, ahead of all runs
                copy.input[weight.position] = f"{unit.tensor}:{form}:{weight.position}"
                values = weight.values if changed else weight.float_values
                constants.append(numpy_helper.from_array(np.ascontiguousarray(values), copy.input[weight.position]))
            for position, rounding in unit.operands if changed else ():
                name = f"{unit.tensor}:read:{position}"
                body += _rounded(name, copy.input[position], rounding, graph)
                copy.input[position] = f"{name}:rounded"
        copy.input[:] = [inner.get(name, name) for name in copy.input]
        copy.output[:] = [inner.get(name, name) for name in copy.output]
        body.append(copy)
    result = inner.get(unit.tensor, unit.tensor)
    if changed and unit.rounding is not None:
        body += _rounded(unit.tensor, result, unit.rounding, graph)
        result = f"{unit.tensor}:rounded"
    elif not body:
        body.append(helper.make_node("Identity", [unit.tensor], [f"{unit.tensor}:{form}"]))
        result = f"{unit.tensor}:{form}"
    answer = helper.make_tensor_value_info(result, kind, None)
    return helper.make_graph(body, form, [], [answer], constants)


def _rounded(tensor: str, source: str, rounding: Rounding, graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    from onnx import helper, numpy_helper

    scale, zero, integers = (f"{tensor}:{what}" for what in ("scale", "zero", "integers"))
    graph.initializer.append(numpy_helper.from_array(rounding.scale, scale))
    graph.initializer.append(_integers(rounding.zero_point, zero))
    axis: Mapping[str, Any] = {"axis": rounding.axis} if rounding.scale.size > 1 else {}
    return [
        helper.make_node("QuantizeLinear", [source, scale, zero], [integers], **axis),
        helper.make_node("DequantizeLinear", [integers, scale, zero], [f"{tensor}:rounded"], **axis),
    ]


def _integers(values: Array, name: str) -> onnx.TensorProto:
    """4-bit integers, which numpy has no type for, keep their type."""
    import onnx_ir
    from onnx import numpy_helper

    if values.dtype.kind in "iu":
        return numpy_helper.from_array(values, name)
    proto: onnx.TensorProto = onnx_ir.to_proto(onnx_ir.tensor(values, name=name))
    return proto


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    copy = type(node)()
    copy.CopyFrom(node)
    return copy


def _rename(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    """Let `node`, its bodies too, read other tensors."""
    node.input[:] = [names.get(name, name) for name in node.input]
    for attribute in node.attribute:
        for inner in (*attribute.g.node, *(n for body in attribute.graphs for n in body.node)):
            _rename(inner, names)
