"""Where a quantized graph differs from the float graph it was made of: rounded activations, changed weights.

The two are matched by the names of nodes and tensors, which quantizers keep.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from passes.dataset import Array
from passes.onnx_level.matching import made_by
from passes.program import Program
from targets.graph import MODULE_KEY, SOURCE_KEY
from targets.grouping import EPILOGUES

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Rounding", "Unit", "Weight", "dequantized", "key_of", "units"]

_Q, _DQ = "QuantizeLinear", "DequantizeLinear"


@dataclass(frozen=True, eq=False)
class Rounding:
    """An activation that is stored in integers: the scale and zero point that it is rounded by."""

    scale: Array
    zero_point: Array
    axis: int

    @property
    def step(self) -> float:
        """Between two neighbouring values; the largest of them where channels have steps of their own."""
        return float(np.max(self.scale))

    @property
    def bounds(self) -> tuple[float, float]:
        """The least and largest value that can be stored."""
        limits = np.iinfo(_plain(self.zero_point).dtype)
        zero = _plain(self.zero_point).astype(np.float64)
        scale = self.scale.astype(np.float64)
        return float(((limits.min - zero) * scale).min()), float(((limits.max - zero) * scale).max())


@dataclass(frozen=True, eq=False)
class Weight:
    """A constant operand that differs: as the float graph has it, and as the other computes with it."""

    position: int
    name: str
    float_values: Array
    values: Array
    scale: Array | None
    axis: int


@dataclass(frozen=True, eq=False)
class Unit:
    """An operator with the activation behind it, or an input of the graph: what stays in float or does not.

    Args:
        tensor: Its result as the next operators read it.
        node: Its key in the float graph, see `key_of`; empty for an input.
        rounding: Of its result.
        operands: Of what it reads, by position: for units that round what they read, not what they make.
        activation: The node of the float graph that ends the unit, where that is another: the integers' bounds may
            have taken its place.
    """

    name: str
    op_type: str
    tensor: str
    node: str
    module: str = ""
    source: str = ""
    rounding: Rounding | None = None
    weights: tuple[Weight, ...] = ()
    operands: tuple[tuple[int, Rounding], ...] = ()
    activation: ir.Node | None = None


def units(float_program: Program, other: Program, *, by: Literal["maker", "reader"] = "maker") -> tuple[Unit, ...]:
    """Every unit in which `other` differs, in the order in which they run.

    Args:
        by: Whose part a rounded activation is: of the operator that makes it, as one looks for what went wrong, or of
            each that reads it, as runtimes decide what is computed in integers.
    """
    own, theirs = float_program.graph, other.graph
    known = {v.name for v in (*own.inputs, *(o for node in own for o in node.outputs))}
    roundings = dict(_roundings(theirs, known))
    counterparts = {key_of(node): node for node in theirs}
    found = [Unit(str(v.name), "input", str(v.name), "", rounding=r)
             for v in own.inputs if by == "maker" and (r := roundings.get(str(v.name)))]  # fmt: skip
    for node in own:
        last = _tail(node, roundings)
        if last is None:
            continue
        twin = counterparts.get(key_of(node))
        weights = tuple(_weights(node, twin)) if twin is not None and twin.op_type == node.op_type else ()
        rounding = roundings.get(str(last.name)) if by == "maker" or last.is_graph_output() else None
        operands = tuple(_rounded_operands(node, twin, roundings)) if by == "reader" and twin is not None else ()
        if rounding is None and not weights and not operands:
            continue
        found.append(
            Unit(
                name=node.metadata_props.get(MODULE_KEY, "") or key_of(node),
                op_type=node.op_type,
                tensor=str(last.name),
                node=key_of(node),
                module=node.metadata_props.get(MODULE_KEY, ""),
                source=node.metadata_props.get(SOURCE_KEY, ""),
                rounding=rounding,
                weights=weights,
                operands=operands,
                activation=None if last is node.outputs[0] else last.producer(),
            )
        )
    return _named_apart(found)


def _rounded_operands(
    node: ir.Node, twin: ir.Node, roundings: Mapping[str, Rounding]
) -> Iterator[tuple[int, Rounding]]:
    for position, (own, theirs) in enumerate(zip(node.inputs, twin.inputs, strict=False)):
        producer = theirs.producer() if theirs is not None else None
        rounding = roundings.get(str(own.name)) if own is not None else None
        if rounding is not None and producer is not None and producer.op_type == _DQ:
            yield position, rounding


def key_of(node: ir.Node) -> str:
    """What a node is found by: its name, or that of its first result where it has none."""
    return node.name or str(node.outputs[0].name)


def _named_apart(found: list[Unit]) -> tuple[Unit, ...]:
    """A module may make several operators: those are called by their nodes as well."""
    from collections import Counter
    from dataclasses import replace

    counts = Counter(unit.name for unit in found)
    return tuple(replace(u, name=f"{u.name} ({u.node})") if counts[u.name] > 1 and u.node else u for u in found)


def _roundings(graph: ir.Graph, known: set[str | None]) -> Iterator[tuple[str, Rounding]]:
    """Rounded activations by the name they have in the float graph; of several roundings of one, the first."""
    seen = set()
    for node in graph:
        if node.op_type != _DQ or node.inputs[0] is None:
            continue
        quantize = node.inputs[0].producer()
        if quantize is None or quantize.op_type != _Q or quantize.inputs[0] is None:
            continue
        names = quantize.inputs[0].name, node.outputs[0].name
        name = next((n for n in names if n in known and n is not None), None)
        scale, zero = _constant(node.inputs[1]), _constant(node.inputs[2] if len(node.inputs) > 2 else None)
        if name is None or name in seen or scale is None:
            continue
        seen.add(name)
        zero = zero if zero is not None else np.zeros(scale.shape, np.uint8)
        yield name, Rounding(scale, zero, node.attributes.get_int("axis", 1))


def _tail(node: ir.Node, roundings: dict[str, Rounding]) -> ir.Value | None:
    """The result of a unit that starts at `node`; None where the node ends the unit before it, or has several results.

    Of the latter (Split, TopK, LSTM) what is rounded is left to all units together.
    """
    if _leads_into(node, roundings) or len([v for v in node.outputs if v.name]) > 1:
        return None
    value = node.outputs[0]
    users = list(value.uses())
    if str(value.name) not in roundings and len(users) == 1 and not value.is_graph_output():
        after = users[0].node
        if _leads_into(after, roundings):
            return after.outputs[0]
    return value


def _leads_into(node: ir.Node, roundings: dict[str, Rounding]) -> bool:
    """Whether `node` is an activation that is computed with the operator before it."""
    first = node.inputs[0] if node.inputs else None
    maker = first.producer() if first is not None else None
    if node.op_type not in EPILOGUES["relu"] or first is None or maker is None or maker.graph is not node.graph:
        return False
    return str(first.name) not in roundings and len(list(first.uses())) == 1 and not first.is_graph_output()


def _weights(node: ir.Node, twin: ir.Node) -> Iterator[Weight]:
    for position, (own, theirs) in enumerate(zip(node.inputs, twin.inputs, strict=False)):
        values = _constant(own)
        producer = theirs.producer() if theirs is not None else None
        quantized = producer is not None and producer.op_type == _DQ
        changed = dequantized(producer) if quantized and producer is not None else _constant(theirs)
        if values is None or changed is None or own is None or values.dtype.kind != "f":
            continue
        if values.shape == changed.shape and not np.array_equal(values, changed):
            scale = _constant(producer.inputs[1]) if quantized and producer is not None else None
            axis = producer.attributes.get_int("axis", 1) if quantized and producer is not None else 0
            yield Weight(position, str(own.name), values, changed.astype(values.dtype), scale, axis)


def dequantized(node: ir.Node) -> Array | None:
    """The floats that a DequantizeLinear of constants stands for; None where it is not one of constants."""
    integers, scale = _constant(node.inputs[0]), _constant(node.inputs[1])
    zero = _constant(node.inputs[2] if len(node.inputs) > 2 else None)
    if integers is None or scale is None:
        return None
    axis, block = node.attributes.get_int("axis", 1), node.attributes.get_int("block_size", 0)
    zero = np.zeros(scale.shape, np.int32) if zero is None else _plain(zero).astype(np.int32)
    if block:
        scale, zero = (np.repeat(a, block, axis).take(range(integers.shape[axis]), axis) for a in (scale, zero))
    elif scale.ndim == 1 and scale.size > 1:
        shape = [1] * integers.ndim
        shape[axis] = -1
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    found: Array = (_plain(integers).astype(np.int32) - zero) * scale
    return found


def _plain(values: Array) -> Array:
    """4-bit integers, which numpy has no type for, in 8 bits; every other as it is."""
    return values if values.dtype.kind in "iu" else values.astype(np.int8)


def _constant(value: ir.Value | None) -> Array | None:
    if value is not None and value.const_value is None and (widened := made_by(value, "Cast")) is not None:
        return _constant(widened.inputs[0])  # stored in fewer bits: the numbers are the same
    if value is not None and value.const_value is None and (scaled := made_by(value, "Mul")) is not None:
        left, right = (_constant(v) for v in scaled.inputs)  # stored in bytes beside their scales
        return None if left is None or right is None else np.asarray(left * right)
    if value is None or value.const_value is None:
        return None
    array: Array = value.const_value.numpy()
    return array
