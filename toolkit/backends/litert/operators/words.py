"""The words in which the small networks of loops are written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from toolkit.backends.litert.lowering import Lowering
from toolkit.backends.litert.tensors import Tensor

if TYPE_CHECKING:
    from passes.dataset import Array

__all__ = ["Words"]

_PLAIN = {"fused_activation_function": 0}


class Words:
    """What steps are written in: operators on floats (rows, columns), and on the numbers of steps."""

    def __init__(self, lowering: Lowering) -> None:
        self._lowering = lowering

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        return self._plain("ADD", a, b)

    def sub(self, a: Tensor, b: Tensor) -> Tensor:
        return self._plain("SUB", a, b)

    def mul(self, a: Tensor, b: Tensor) -> Tensor:
        return self._plain("MUL", a, b)

    def call(self, function: str, x: Tensor) -> Tensor:
        return self._lowering.emit(function, [x], x.shape, x.dtype)

    def product(self, x: Tensor, weights: Tensor, bias: Array) -> Tensor:
        """x times the transpose of `weights`, plus `bias`."""
        operands = [x, self._lowering.dequantized(weights), self._lowering.constant(bias)]
        return self._lowering.emit("FULLY_CONNECTED", operands, (x.shape[0], len(bias)), x.dtype, None, _PLAIN)

    def pieces(self, x: Tensor, count: int, axis: int = 1) -> list[Tensor]:
        """Equal parts of a tensor."""
        if count == 1:
            return [x]
        shape = (*x.shape[:axis], x.shape[axis] // count, *x.shape[axis + 1 :])
        parts = [Tensor("", shape, x.dtype) for _ in range(count)]
        self._lowering.split(x, parts, axis)
        return parts

    def joined(self, parts: Sequence[Tensor], axis: int) -> Tensor:
        """Tensors of one shape, one behind the other."""
        shape = list(parts[0].shape)
        shape[axis] *= len(parts)
        return self._lowering.emit("CONCATENATION", parts, shape, parts[0].dtype, None, {"axis": axis})

    def zeros(self, *shape: int) -> Tensor:
        zero = self._lowering.constant(np.zeros(1, np.float32))
        size = self._lowering.constant(np.array(shape, np.int32))
        return self._lowering.emit("BROADCAST_TO", [zero, size], shape, "float32")

    # ---- rows by their number

    def number(self, value: int) -> Tensor:
        return self._lowering.constant(np.array([value], np.int32))

    def less(self, a: Tensor, b: Tensor) -> Tensor:
        return self._lowering.emit("LESS", [a, b], a.shape, "bool")

    def smaller(self, a: Tensor, b: Tensor) -> Tensor:
        return self._lowering.emit("MINIMUM", [a, b], a.shape, a.dtype)

    def row(self, rows: Tensor, number: Tensor) -> Tensor:
        return self._lowering.emit("GATHER", [rows, number], (1, rows.shape[1]), rows.dtype, None, {"axis": 0})

    def rows(self, rows: Tensor, numbers: Array) -> Tensor:
        where = self._lowering.constant(numbers)
        return self._lowering.emit("GATHER", [rows, where], rows.shape, rows.dtype, None, {"axis": 0})

    def put(self, rows: Tensor, some: Tensor, number: Tensor) -> Tensor:
        """`rows` with `some` from the row `number` on."""
        where = self._lowering.emit("CONCATENATION", [number, self.number(0)], (2,), "int32", None, {"axis": 0})
        return self._lowering.emit("DYNAMIC_UPDATE_SLICE", [rows, some, where], rows.shape, rows.dtype)

    def slice(self, rows: Tensor, count: int) -> Tensor:
        """The first rows."""
        if rows.shape[0] == count:
            return rows
        shape = (count, rows.shape[1])
        begin, size = (self._lowering.constant(np.array(v, np.int32)) for v in ((0, 0), shape))
        return self._lowering.emit("SLICE", [rows, begin, size], shape, rows.dtype)

    def _plain(self, code: str, a: Tensor, b: Tensor) -> Tensor:
        return self._lowering.emit(code, [a, b], a.shape, a.dtype, None, _PLAIN)
