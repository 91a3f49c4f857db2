"""How an operator ends: the activation function behind it, and the integers that its results become.

A QuantizeLinear that stands behind operators which only move numbers could as well stand before them: order and
largest elements are the same in integers. So integers begin where the last arithmetic ended.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from passes.onnx_level.matching import only_user
from toolkit.backends.ahead_of_time.integers.c_values import Range
from toolkit.backends.ahead_of_time.integers.quantities import Quantity, quantity_of

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["MOVES", "VIEWS", "Ending", "bounds", "ending_of", "wanted"]

VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"})
MOVES = VIEWS | {"Transpose", "Slice", "Split", "Gather", "DepthToSpace", "SpaceToDepth", "MaxPool"}


@dataclass(frozen=True, eq=False)
class Ending:
    """Where an operator ends.

    Args:
        value: Its result, after the activation function.
        quantity: What the result is stored as; None where it stays in floats.
        inside: Nodes that are part of it.
        low, high: Limits of the activation function.
    """

    value: ir.Value
    quantity: Quantity | None
    inside: tuple[ir.Node, ...] = ()
    low: float = -np.inf
    high: float = np.inf

    @property
    def range(self) -> Range:
        assert self.quantity is not None
        return Range(self.quantity.zero, self.quantity.stored(self.low), self.quantity.stored(self.high))


def ending_of(value: ir.Value) -> Ending:
    """The end of the operator whose result is `value`; without its activation function where that stays in floats."""
    plain = Ending(value, wanted(value))
    found = plain
    while found.quantity is None:
        user = only_user(found.value)
        limits = bounds(user) if user is not None and user.inputs[0] is found.value else None
        if user is None or limits is None:
            return plain
        low, high = (float(np.clip(limit, found.low, found.high)) for limit in limits)
        value = user.outputs[0]
        found = Ending(value, wanted(value), (*found.inside, user), low, high)
    return found


def bounds(node: ir.Node) -> tuple[float, float] | None:
    """The limits within which `node`, a Relu or a Clip, keeps its input; None for others, or where they vary."""
    if node.domain or node.op_type not in ("Relu", "Clip"):
        return None
    if node.op_type == "Relu":
        return 0.0, np.inf
    found = []
    for position, default in ((1, -np.inf), (2, np.inf)):
        value = node.inputs[position] if position < len(node.inputs) else None
        if value is None:
            found.append(default)
        elif value.const_value is None or value.const_value.size != 1:
            return None
        else:
            found.append(float(value.const_value.numpy().reshape(())))
    return found[0], found[1]


def wanted(value: ir.Value) -> Quantity | None:
    """The integers that everyone who reads `value` turns it into first; None where someone does not."""
    if value.is_graph_output():
        return None
    found: set[Quantity | None] = set()
    for use in value.uses():
        node = use.node
        if node.domain or use.idx != 0:
            return None
        if node.op_type == "QuantizeLinear":
            found.add(quantity_of(node))
        elif node.op_type in MOVES:
            found |= {wanted(output) for output in node.outputs}
        else:
            return None
    return found.pop() if len(found) == 1 else None
