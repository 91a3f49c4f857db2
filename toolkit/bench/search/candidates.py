"""Deployments of a network made one by one: channels taken out, groups of layers in integers, the rest in float.

Channels go by the norm of what makes and what reads them, without any training afterwards; integers are those of
`QuantizeInt8`. So a candidate is what a compile could make of the network, and its answers are onnxruntime's.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np

from passes.context import Budget, Context
from passes.onnx_level.channel_groups import Axis, ChannelGroup
from passes.onnx_level.channel_rules import channel_groups
from passes.onnx_level.quantize_int8 import QuantizeInt8
from passes.program import Program
from passes.recipe import float32
from passes.running import run
from targets.stack import Stack
from targets.target import load_target
from toolkit.bench.trained import Task

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["floating", "in_integers", "narrowed", "shrinkable"]

_UNBOUNDED = Budget(min_sqnr_db=-1000.0, max_metric_drop=1.0)


def _context(task: Task) -> Context:
    return Context(stack=_stack(), data=task.calibration, validation=task.calibration.take(1), budget=_UNBOUNDED)


def _stack() -> Stack:
    """Whose integers they are: signed, a scale a channel, as the Pi's and the Edge TPU's runtimes want them."""
    return load_target("raspberry_pi_4").stack()


def floating(task: Task) -> Program:
    """The float graph, folded and fused."""
    return run(float32(_stack(), task.program.level), task.program, _context(task)).program


def shrinkable(program: Program, trunk: bool) -> list[ChannelGroup]:
    """Channels that may go, in the order of the graph; with `trunk` those too that are sums of several layers."""
    return [group for group in channel_groups(program.graph) if not group.held and (trunk or not group.added)]


def narrowed(program: Program, kept: Sequence[int], *, trunk: bool) -> Program:
    """With as many channels of each of `shrinkable` as `kept` says, those of the largest norm."""
    clone = program.clone()
    groups = shrinkable(program.with_model(clone), trunk)
    for group, count in zip(groups, kept, strict=True):
        if count < group.channels:
            _take(clone.graph, group, count)
    for node in clone.graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None
    return program.with_model(clone)


def _take(graph: ir.Graph, group: ChannelGroup, count: int) -> None:
    stay = np.sort(np.argsort(-_norms(group), kind="stable")[:count])
    for axis in group.axes:
        if axis.use is not None:
            _replace(graph, axis, stay)
        else:
            node = axis.value.producer()
            if node is not None and node.op_type == "Conv" and node.attributes.get_int("group", 1) > 1:
                import onnx_ir

                node.attributes["group"] = onnx_ir.AttrInt64("group", count)


def _norms(group: ChannelGroup) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """(channels,) product over constants of the norm of each channel's part."""
    total = np.ones(group.channels)
    for axis in group.axes:
        if axis.use is not None and axis.value.const_value is not None:
            array = np.moveaxis(axis.value.const_value.numpy().astype(np.float64), axis.axis, 0)
            if array.ndim > 1:
                total *= np.sqrt(np.square(array.reshape(len(array), -1)).sum(1)) + 1e-12
    return total


def _replace(graph: ir.Graph, axis: Axis, stay: np.ndarray[tuple[int], np.dtype[np.intp]]) -> None:
    import onnx_ir

    assert axis.use is not None
    node, position = axis.use
    value = node.inputs[position]
    assert value is not None
    assert value.const_value is not None
    part = np.ascontiguousarray(np.take(value.const_value.numpy(), stay, axis.axis))
    name = f"{value.name}_of_{len(stay)}_{position}_{axis.axis}_{node.name}"
    tensor = onnx_ir.tensor(part, name=name)
    made = onnx_ir.Value(name=name, shape=onnx_ir.Shape(part.shape), type=onnx_ir.TensorType(tensor.dtype),
                         const_value=tensor)  # fmt: skip
    graph.register_initializer(made)
    node.replace_input_with(position, made)
    if not value.uses() and not value.is_graph_output():
        del graph.initializers[str(value.name)]


def in_integers(program: Program, task: Task, floats: Collection[str]) -> Program:
    """In 8 bits, but for the nodes named `floats`."""
    names = [node.name for node in program.graph if node.name in set(floats)]
    step = QuantizeInt8(exclude=tuple(str(name) for name in names), samples=32)
    return step.apply(program, _context(task))
