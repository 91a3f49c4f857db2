"""Remove channels from every layer that can lose some: the true graph of a narrower network, with untrained weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from passes.contract import PassFailed
from passes.onnx_level.channel_groups import Axis, ChannelGroup
from passes.onnx_level.channel_rules import channel_groups
from passes.onnx_level.drafting import store_once
from passes.onnx_level.matching import matchable, rank
from passes.onnx_level.rewriting import rewriting_errors
from passes.program import Program

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Slimmer", "slim_channels"]


@dataclass(frozen=True, kw_only=True)
class Slimmer:
    """How channels are removed: the share, of which layers, and in steps of how many.

    `trunk` takes from layers whose results are added up as well: all that are joined by residual additions together.
    """

    share: float
    step: int = 8
    trunk: bool = False

    def kept(self, channels: int) -> int:
        """Channels that stay of so many: a multiple of `step`, never under it, and never fewer than asked."""
        wanted = -int(-channels * (1 - self.share) // self.step) * self.step
        return min(channels, max(wanted, self.step))


def slim_channels(program: Program, slimmer: Slimmer) -> Program:
    """The program without the last channels of every layer that may lose some.

    Layers whose channels must agree lose them together; those that feed a concatenation, a grouped convolution or an
    output of the graph keep theirs. Which channels go says nothing about accuracy: the weights have to be trained.

    Raises:
        PassFailed: the graph is quantized, or no layer may lose a channel.
    """
    model = program.clone() if _is_matchable(program.graph) else matchable(program)
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear", "QLinearConv") for node in model.graph):
        raise PassFailed("the graph is quantized", hint="give the float model: channels are removed before")
    groups = channel_groups(model.graph)
    chosen = [g for g in groups if not g.held and (slimmer.trunk or not g.added)]
    sizes = {group.channels: slimmer.kept(group.channels) for group in chosen}
    shrunk = [group for group in chosen if sizes[group.channels] < group.channels]
    if not shrunk:
        raise PassFailed(f"no layer can lose a channel: {_why(groups, slimmer)}", hint="design a narrower network")
    with rewriting_errors():
        _shrink(model.graph, shrunk, sizes)
    store_once(model)
    return program.with_model(model)


def _is_matchable(graph: ir.Graph) -> bool:
    """Whether types and shapes are inferred and constants lifted, as `matchable` leaves a graph."""
    return all(
        node.op_type != "Constant" and all(v.shape is not None and v.dtype is not None for v in node.outputs)
        for node in graph
    )


def _why(groups: Sequence[ChannelGroup], slimmer: Slimmer) -> str:
    if not groups:
        return "it has none with weights that are constant"
    free = [g for g in groups if not g.held]
    if any(slimmer.trunk or not g.added for g in free):
        return f"those that could have too few for steps of {slimmer.step}, which the stack computes at once"
    return "their results are added up" if free else next(g.held for g in groups)


def _shrink(graph: ir.Graph, groups: Sequence[ChannelGroup], sizes: Mapping[int, int]) -> None:
    new = {a: _count(a) // g.channels * sizes[g.channels] for g in groups for a in g.axes}
    _cut_constants(graph, [a for a in new if a.use is not None], new)
    for node in graph:
        channels = new.get(Axis(node.outputs[0], 1)) if node.op_type == "Conv" else None
        if channels is not None and node.attributes.get_int("group", 1) > 1:
            _set_group(node, channels)
        if node.op_type == "Reshape":
            _restate(graph, node, new)
    for node in graph:
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None


def _count(axis: Axis) -> int:
    size = axis.size
    assert isinstance(size, int)
    return size


def _cut_constants(graph: ir.Graph, axes: Sequence[Axis], new: Mapping[Axis, int]) -> None:
    """Every use of a constant gets its first elements along the axes that shrink; equal cuts are stored once."""
    uses: dict[tuple[ir.Node, int], dict[int, int]] = {}
    for axis in axes:
        assert axis.use is not None
        uses.setdefault(axis.use, {})[axis.axis] = new[axis]
    made: dict[tuple[ir.Value, tuple[tuple[int, int], ...]], ir.Value] = {}
    for (node, position), cuts in uses.items():
        value = node.inputs[position]
        assert value is not None
        key = (value, tuple(sorted(cuts.items())))
        if key not in made:
            made[key] = _cut(graph, value, cuts)
        node.replace_input_with(position, made[key])
    for value in {v for v, _ in made}:
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[str(value.name)]


def _cut(graph: ir.Graph, value: ir.Value, cuts: Mapping[int, int]) -> ir.Value:
    assert value.const_value is not None
    array = value.const_value.numpy()
    part = array[tuple(slice(cuts.get(axis)) for axis in range(array.ndim))]
    return _initializer(graph, f"{value.name}_slim", np.ascontiguousarray(part))


def _initializer(graph: ir.Graph, name: str, array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> ir.Value:
    import onnx_ir

    tensor = onnx_ir.tensor(array)
    number, unique = 0, name
    while unique in graph.initializers:
        number += 1
        unique = f"{name}{number}"
    made = onnx_ir.Value(
        name=unique, shape=onnx_ir.Shape(array.shape), type=onnx_ir.TensorType(tensor.dtype), const_value=tensor
    )  # fmt: skip
    graph.register_initializer(made)
    return made


def _set_group(node: ir.Node, groups: int) -> None:
    import onnx_ir

    node.attributes["group"] = onnx_ir.AttrInt64("group", groups)


def _restate(graph: ir.Graph, node: ir.Node, new: Mapping[Axis, int]) -> None:
    """Write the new sizes into the shape that a Reshape is given; 0 and -1 follow by themselves."""
    wanted = node.inputs[1]
    assert wanted is not None
    if wanted.const_value is None:
        return
    before = wanted.const_value.numpy()
    out = node.outputs[0]
    after = before.copy()
    for axis in range(rank(out)):
        if before[axis] > 0 and (size := new.get(Axis(out, axis))) is not None:
            after[axis] = size
    if (after != before).any():
        node.replace_input_with(1, _initializer(graph, f"{node.name}_shape", after))
