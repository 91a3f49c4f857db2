"""An operator of the device's graph with the arrays it works on, and what a whole run gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from passes.dataset import Array
from toolkit.verify.integers.numerics import Numerics

__all__ = ["Call", "Operator", "Run", "Unknown"]


@dataclass(frozen=True)
class Run:
    """One sample through a device.

    Args:
        outputs: By name, as the network gives them.
        integers: Every 8-bit tensor that was computed, not merely moved, by name, in the order in which they were made.
        elsewhere: Operators that onnxruntime computed on this machine, with the reason: not bit-true.
    """

    outputs: dict[str, Array]
    integers: dict[str, Array]
    elsewhere: dict[str, str] = field(default_factory=dict)


class Unknown(Exception):
    """This form of an operator has no integer arithmetic here."""


@dataclass(frozen=True)
class Call:
    """One run of an operator.

    Args:
        node: As onnxruntime's optimiser left it.
        operands: An array for each input; None where one is left out.
        numerics: The device.
    """

    node: onnx.NodeProto
    operands: Sequence[Array | None]
    numerics: Numerics
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def array(self, position: int) -> Array:
        """An operand that must be there."""
        value = self.operands[position] if position < len(self.operands) else None
        if value is None:
            raise Unknown(f"without operand {position}")
        return value

    def maybe(self, position: int) -> Array | None:
        return self.operands[position] if position < len(self.operands) else None

    def scale(self, position: int) -> Array:
        """float32, flat."""
        return self.array(position).astype(np.float32).reshape(-1)

    def zero(self, position: int) -> int:
        """The zero point of a whole tensor; 0 where none is stated."""
        value = self.maybe(position)
        if value is None:
            return 0
        if value.size != 1:
            raise Unknown("with zero points of its own for each channel")
        return int(value.reshape(-1)[0])

    def integers(self, name: str, default: Sequence[int]) -> list[int]:
        return [int(v) for v in self.attributes.get(name, default)]


Operator = Callable[[Call], list[Array]]
"""From a call to its results."""
