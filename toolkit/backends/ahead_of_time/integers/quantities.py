"""What integers of a graph stand for: QuantizeLinear and DequantizeLinear read as one scale and one zero."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from passes.dataset import Array
from passes.onnx_level.matching import made_by

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["HIGHEST", "LOWEST", "Quantity", "Weights", "quantity_of", "weights_of"]

LOWEST, HIGHEST = -128, 127


@dataclass(frozen=True)
class Quantity:
    """An int8 tensor q stands for (q - zero) * scale; `scale` is exact in float32.

    Unsigned bytes of the graph are held less 128, and their zero with them: the same numbers.
    """

    scale: float
    zero: int

    @property
    def step(self) -> np.float32:
        return np.float32(self.scale)

    def stored(self, real: float) -> int:
        """What QuantizeLinear makes of a number: halves to even, saturated."""
        if np.isinf(real):
            return HIGHEST if real > 0 else LOWEST
        return int(np.clip(np.rint(np.float32(real) / self.step) + self.zero, LOWEST, HIGHEST))

    def store(self, real: Array) -> Array:
        stored: Array = np.clip(np.rint(real.astype(np.float32) / self.step) + self.zero, LOWEST, HIGHEST)
        return stored.astype(np.int8)

    def real(self, stored: Array) -> Array:
        real: Array = (stored.astype(np.int32) - self.zero).astype(np.float32) * self.step
        return real


@dataclass(frozen=True, eq=False)
class Weights:
    """Integers with one scale for the whole tensor or one for each index of `axis`; nothing is stored as 0."""

    values: Array
    scale: Array
    axis: int

    def scales(self, channels: int) -> Array:
        """One float32 for each output channel."""
        return np.broadcast_to(self.scale.astype(np.float32).reshape(-1), channels)


def quantity_of(node: ir.Node) -> Quantity | None:
    """Of a QuantizeLinear or DequantizeLinear of bytes with one scale for the whole tensor; None for any other."""
    scale = _constant(node, 1)
    zero = _constant(node, 2)
    stored = node.inputs[0] if node.op_type == "DequantizeLinear" else node.outputs[0]
    kind = _byte(zero) or (stored.dtype.name if stored is not None and stored.dtype is not None else "")
    if scale is None or scale.size != 1 or scale.dtype != np.float32 or kind not in ("INT8", "UINT8"):
        return None
    unknown = zero is None and len(node.inputs) > 2 and node.inputs[2] is not None
    if unknown or not np.isfinite(scale).all() or (scale <= 0).any():
        return None
    offset = int(zero.reshape(())) if zero is not None else 0
    return Quantity(float(scale.reshape(())), offset - (128 if kind == "UINT8" else 0))


def weights_of(value: ir.Value | None) -> Weights | None:
    """The integers that a DequantizeLinear of constants holds, where nothing is stored as 0; None for any other."""
    node = made_by(value, "DequantizeLinear")
    if node is None:
        return None
    stored, scale = _constant(node, 0), _constant(node, 1)
    zero = _constant(node, 2) if len(node.inputs) > 2 and node.inputs[2] is not None else np.zeros(1, np.int8)
    if stored is None or scale is None or zero is None or stored.dtype not in (np.int8, np.uint8, np.int32):
        return None
    if scale.ndim > 1 or node.attributes.get_int("block_size", 0) > 0:
        return None
    if stored.dtype == np.uint8:
        stored, zero = (stored.astype(np.int16) - 128).astype(np.int8), zero.astype(np.int16) - 128
    return None if zero.any() else Weights(stored, scale, node.attributes.get_int("axis", 1) % max(stored.ndim, 1))


def _constant(node: ir.Node, position: int) -> Array | None:
    value = node.inputs[position] if position < len(node.inputs) else None
    found: Array | None = value.const_value.numpy() if value is not None and value.const_value is not None else None
    return found


def _byte(zero: Array | None) -> str:
    return zero.dtype.name.upper() if zero is not None else ""


def constants_of(node: ir.Node) -> Iterator[ir.Value]:
    """The inputs of a node that are known."""
    yield from (v for v in node.inputs if v is not None and v.const_value is not None)
