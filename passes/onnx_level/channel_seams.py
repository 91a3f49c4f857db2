"""Places where the channels of an activation can be scaled without changing the answers: between maker and reader.

What makes channel c is divided by s[c], what reads it multiplied; in between stands only what lets a positive factor
through. In exact arithmetic the outputs stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from passes.dataset import Array
from passes.onnx_level.matching import number, only_user, rank, size
from passes.onnx_level.weights import channel_axis

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Operand", "Seam", "balance", "seams"]

_Arrays = dict[tuple["ir.Node", int], Array]

_HOMOGENEOUS = frozenset({"Relu", "LeakyRelu", "PRelu", "MaxPool", "AveragePool", "GlobalAveragePool"})
"""f(s x) = s f(x) for s > 0, channel by channel. Clip is one where it has no upper bound and 0 as the lower."""

_NORMS = frozenset({"LayerNormalization", "RMSNormalization"})
_SWEEPS = 50  # a weight that two seams share is balanced again when the other has changed it
_SETTLED = 1e-3  # of the logarithm of a factor
_WORTH = 0.05  # where no factor is further from 1, the graph stays as it is
_LARGEST = 1e4  # and 1e-4: of a factor; float32 holds seven digits


@dataclass(frozen=True)
class Operand:
    """A constant that takes a factor for each channel: seen as `view`, by factors seen as `spread`."""

    node: ir.Node
    position: int
    view: tuple[int, ...]
    spread: tuple[int, ...]

    @property
    def values(self) -> Array:
        value = self.node.inputs[self.position]
        assert value is not None
        assert value.const_value is not None
        return np.asarray(value.const_value.numpy(), np.float64)


@dataclass(frozen=True, eq=False)
class Seam:
    """An activation of `channels` channels, the constants that make it and those that read it.

    `kind` is "convolution", "product" or "norm": what makes it.
    """

    value: ir.Value
    channels: int
    kind: str
    makers: tuple[Operand, ...]
    readers: tuple[Operand, ...]


def seams(graph: ir.Graph) -> list[Seam]:
    """In the order of the graph, whose constants are initializers and whose shapes are known (see `matchable`)."""
    found = []
    for node in graph:
        made = _norm(node) or _layer(node)
        if made is None:
            continue
        kind, makers, value = made
        channels = int(np.prod(makers[0].spread))
        while (after := only_user(value)) is not None and _lets_through(after, value):
            value = after.outputs[0]
        readers = [_reader(use.node, use.idx, graph, channels, kind) for use in value.uses()]
        if readers and not value.is_graph_output() and not any(r is None for r in readers):
            found.append(Seam(value, channels, kind, makers, tuple(r for r in readers if r is not None)))
    return found


def balance(
    graph: ir.Graph, between: Sequence[Seam], seen: Mapping[Seam, Array] | None = None, share: float = 0.5
) -> bool:
    """Rescale the constants at seams, in place, until s[c] = made[c]^share / read[c]^(1 - share) is 1 everywhere.

    `read` is the largest weight that reads a channel; `made` the largest that makes it, or the largest activation
    (channels,) where those that were `seen` are given. Channels of which either is 0 keep their factor.

    Returns:
        Whether anything changed: not where no factor is further than 5 percent from 1.
    """
    operands = [op for seam in between for op in (*seam.makers, *seam.readers)]
    arrays: _Arrays = {(op.node, op.position): op.values for op in operands}
    total = {seam: np.ones(seam.channels) for seam in between}
    for _ in range(_SWEEPS):
        moved = [_balance_one(arrays, seam, total, seen, share) for seam in between]
        if max(moved, default=0.0) < _SETTLED:
            break
    if not any(np.abs(np.log(factors)).max() > _WORTH for factors in total.values()):
        return False
    for op in {(op.node, op.position): op for op in operands}.values():
        _store(graph, op, arrays[op.node, op.position])
    return True


def _balance_one(
    arrays: _Arrays, seam: Seam, total: dict[Seam, Array], seen: Mapping[Seam, Array] | None, share: float
) -> float:
    """Rescale one seam's arrays; the largest logarithm of a factor."""
    made = _reach(arrays, seam.makers[0]) if seen is None else seen[seam] / total[seam]
    read = np.max([_reach(arrays, op) for op in seam.readers], axis=0)
    alive = (made > 0) & (read > 0)
    wanted = np.where(alive, made, 1.0) ** share / np.where(alive, read, 1.0) ** (1 - share)
    factors = np.where(alive, np.clip(wanted * total[seam], 1 / _LARGEST, _LARGEST) / total[seam], 1.0)
    total[seam] = total[seam] * factors
    for op in seam.makers:
        _scale(arrays, op, 1 / factors)
    for op in seam.readers:
        _scale(arrays, op, factors)
    return float(np.abs(np.log(factors)).max())


def _reach(arrays: _Arrays, op: Operand) -> Array:
    """(channels,), the largest magnitude of each."""
    view = np.abs(arrays[op.node, op.position]).reshape(op.view)
    axes = tuple(axis for axis, count in enumerate(op.spread) if count == 1)
    return np.asarray(view.max(axis=axes)).reshape(-1)


def _scale(arrays: _Arrays, op: Operand, factors: Array) -> None:
    array = arrays[op.node, op.position]
    arrays[op.node, op.position] = (array.reshape(op.view) * factors.reshape(op.spread)).reshape(array.shape)


def _store(graph: ir.Graph, op: Operand, values: Array) -> None:
    """Give the operand these values; a constant that others read as well stays theirs."""
    import onnx_ir

    value = op.node.inputs[op.position]
    assert value is not None
    assert value.dtype is not None
    array = values.astype(value.dtype.numpy())
    if len(value.uses()) == 1 and not value.is_graph_output():
        value.const_value = onnx_ir.tensor(array, name=value.name)
        return
    number_, name = 0, f"{value.name}_scaled"
    while name in graph.initializers:
        number_ += 1
        name = f"{value.name}_scaled{number_}"
    tensor = onnx_ir.tensor(array, name=name)
    made = onnx_ir.Value(
        name=name, shape=onnx_ir.Shape(array.shape), type=onnx_ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(made)
    op.node.replace_input_with(op.position, made)


# ---- what makes an activation, and what reads it


def _layer(node: ir.Node) -> tuple[str, tuple[Operand, ...], ir.Value] | None:
    """A layer with constant weights and bias; the bias of a MatMul may be added behind it."""
    if node.domain or node.op_type not in ("Conv", "Gemm", "MatMul") or not _is_weight(node):
        return None
    shape, axis = _shape(node, 1), channel_axis(node)
    channels = shape[axis]
    view = (channels, -1) if axis == 0 else (-1, channels)
    weights = Operand(node, 1, view, (channels, 1) if axis == 0 else (1, channels))
    kind = "convolution" if node.op_type == "Conv" else "product"
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = _vector(node, 2, channels)
        return (kind, (weights, bias), node.outputs[0]) if bias is not None else None
    after = only_user(node.outputs[0])
    if node.op_type == "MatMul" and after is not None and after.op_type == "Add" and not after.domain:
        added = _vector(after, 1 - after.inputs.index(node.outputs[0]), channels)
        return (kind, (weights, added), after.outputs[0]) if added is not None else None
    return kind, (weights,), node.outputs[0]


def _norm(node: ir.Node) -> tuple[str, tuple[Operand, ...], ir.Value] | None:
    """A normalisation over the last axis with a constant scale, and a constant bias where it has one."""
    if node.domain or node.op_type not in _NORMS or node.inputs[0] is None or len(node.outputs) > 1:
        return None
    last = rank(node.inputs[0]) - 1
    if last < 0 or node.attributes.get_int("axis", -1) not in (-1, last):
        return None
    channels = size(node.inputs[0], last)
    positions = [i for i in range(1, len(node.inputs)) if node.inputs[i] is not None]
    vectors = [_vector(node, i, channels) for i in positions] if isinstance(channels, int) else [None]
    if not vectors or any(v is None for v in vectors):
        return None
    return "norm", tuple(v for v in vectors if v is not None), node.outputs[0]


def _reader(node: ir.Node, position: int, graph: ir.Graph, channels: int, kind: str) -> Operand | None:
    """The weights with which `node` reads an activation, where it is a layer that reads it alone."""
    convolution = kind == "convolution"
    wanted = ("Conv",) if convolution else ("Gemm", "MatMul")
    if node.graph is not graph or node.domain or position != 0 or node.op_type not in wanted or not _is_weight(node):
        return None
    shape = _shape(node, 1)
    if convolution:
        groups = node.attributes.get_int("group", 1)
        if groups * shape[1] != channels:
            return None
        return Operand(node, 1, (groups, shape[0] // groups, shape[1], -1), (groups, 1, shape[1], 1))
    inputs = 1 - channel_axis(node) % 2
    if shape[inputs] != channels or bool(node.attributes.get_int("transA", 0)):
        return None
    return Operand(node, 1, shape, (channels, 1) if inputs == 0 else (1, channels))


def _is_weight(node: ir.Node) -> bool:
    """Whether the weights are float32 constants that nothing else reads."""
    value = node.inputs[1] if len(node.inputs) > 1 else None
    if value is None or value.const_value is None or value.dtype is None or value.is_graph_output():
        return False
    ranks = {"Conv": (3, 4, 5)}.get(node.op_type, (2,))
    return value.dtype.name == "FLOAT" and len(value.uses()) == 1 and len(value.const_value.shape) in ranks


def _vector(node: ir.Node, position: int, channels: int) -> Operand | None:
    """A float32 constant of one element a channel, along the last axis."""
    value = node.inputs[position]
    constant = value.const_value if value is not None else None
    if value is None or constant is None or value.dtype is None or value.dtype.name != "FLOAT":
        return None
    shape = tuple(constant.shape.numpy())
    fits = bool(shape) and shape[-1] == constant.size == channels
    return Operand(node, position, (channels,), (channels,)) if fits else None


def _shape(node: ir.Node, position: int) -> tuple[int, ...]:
    value = node.inputs[position]
    assert value is not None
    assert value.const_value is not None
    return tuple(value.const_value.shape.numpy())


def _lets_through(node: ir.Node, value: ir.Value) -> bool:
    if node.domain or node.inputs[0] is not value or len(node.outputs) != 1:
        return False
    if node.op_type != "Clip":
        return node.op_type in _HOMOGENEOUS
    low, high = (node.inputs[i] if len(node.inputs) > i else None for i in (1, 2))
    return number(low, value) == 0 and high is None
