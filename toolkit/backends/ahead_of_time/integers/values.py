"""Every value of the graph as tensors of the program: as floats, as integers, channels first or last, as it is asked.

A form is made when a kernel first asks for it, out of a form that is there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from toolkit.backends.ahead_of_time.integers.c_values import Range, c_float
from toolkit.backends.ahead_of_time.integers.drafting import Draft
from toolkit.backends.ahead_of_time.integers.quantities import Quantity
from toolkit.backends.ahead_of_time.trace import Tensor

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Form", "Held", "Values", "shape_of"]

_PLANES = 3
"""Dimensions from which on the second one may be laid out last."""


class Form(Enum):
    """How a value is stored: in its own type, as int8 in the order of ONNX, as int8 with the channels last."""

    PLAIN = "plain"
    FIRST = "first"
    LAST = "last"


@dataclass(eq=False)
class Held:
    """A value and the forms in which it exists.

    Args:
        dtype: Of the plain form.
        quantity: What its integers stand for, where it has any.
        tensors: The name of a tensor of the program, by form.
        inside: The name of a value of the island, by form.
        viewed: A value of the same integers in the same order.
        rounded: The value in floats that this one is the integers of.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    quantity: Quantity | None = None
    tensors: dict[Form, str] = field(default_factory=dict)
    inside: dict[Form, str] = field(default_factory=dict)
    viewed: Held | None = None
    rounded: Held | None = None

    @property
    def outer(self) -> int:
        return self.shape[0] if self.shape else 1

    @property
    def channels(self) -> int:
        return self.shape[1] if len(self.shape) > 1 else 1

    @property
    def plane(self) -> int:
        return prod(self.shape[2:])

    @property
    def one_order(self) -> bool:
        """Whether channels first and last are the same bytes."""
        return len(self.shape) < _PLANES or self.channels == 1 or self.plane == 1

    @property
    def is_last(self) -> bool:
        """Whether it exists with its channels last, and not in the order of ONNX."""
        return Form.LAST in self.tensors and Form.FIRST not in self.tensors


def shape_of(value: ir.Value) -> tuple[int, ...]:
    assert value.shape is not None
    return tuple(int(d) for d in value.shape)  # type: ignore[arg-type]


@dataclass
class Values:
    """The values that are known so far, and the program that makes them."""

    draft: Draft = field(default_factory=Draft)
    held: dict[ir.Value, Held] = field(default_factory=dict)

    # What a kernel asks for

    def tensor(self, held: Held, form: Form) -> str:
        """The tensor that holds a value in this form; calls that make it are added where there is none."""
        if form not in held.tensors:
            held.tensors[form] = self._made(held, form)
        return held.tensors[form]

    def result(self, held: Held, form: Form) -> str:
        """A new tensor for a kernel to write the value into."""
        dtype = held.dtype if form is Form.PLAIN else "int8"
        held.tensors[form] = self.draft.tensor(dtype, held.shape)
        return held.tensors[form]

    def integers(self, held: Held) -> Form:
        """The form of integers that is there already, or is made with the fewest steps."""
        return Form.LAST if held.is_last else Form.FIRST

    def _made(self, held: Held, form: Form) -> str:
        if form in held.inside:
            return self._out_of_the_island(held, form)
        if form is Form.PLAIN:
            return self._dequantized(held)
        other = Form.LAST if form is Form.FIRST else Form.FIRST
        if other in held.tensors or other in held.inside:
            if held.one_order:
                return self.tensor(held, other)
            return self._turned(held, other)
        if held.rounded is not None:
            return self._quantized(held, form)
        assert held.viewed is not None
        first = self.tensor(held.viewed, Form.FIRST)
        return first if form is Form.FIRST or held.one_order else self._transposed(held, first, form)

    def _out_of_the_island(self, held: Held, form: Form) -> str:
        dtype = held.dtype if form is Form.PLAIN else "int8"
        name = self.draft.tensor(dtype, held.shape)
        self.draft.island.outputs[held.inside[form]] = self.draft.tensors[name]
        return name

    def _turned(self, held: Held, have: Form) -> str:
        return self._transposed(held, self.tensor(held, have), Form.LAST if have is Form.FIRST else Form.FIRST)

    def _transposed(self, held: Held, name: str, to: Form) -> str:
        sizes = (held.channels, held.plane) if to is Form.LAST else (held.plane, held.channels)
        made = self.draft.tensor("int8", held.shape)
        self.draft.call("integers_transpose", [str(n) for n in (held.outer, *sizes)], [name], made)
        return made

    def _quantized(self, held: Held, form: Form) -> str:
        assert held.rounded is not None
        assert held.quantity is not None
        floats = self.tensor(held.rounded, Form.PLAIN)
        made = self.draft.tensor("int8", held.shape)
        turned = form is Form.LAST and not held.one_order
        sizes = (held.outer, held.channels, held.plane) if turned else (1, 1, prod(held.shape))
        settings = [*map(str, sizes), c_float(held.quantity.step), Range(held.quantity.zero).literal]
        self.draft.call("integers_quantize", settings, [floats], made)
        return made

    def _dequantized(self, held: Held) -> str:
        assert held.quantity is not None
        form = self.integers(held)
        name = self.tensor(held, form)
        turned = form is Form.LAST and not held.one_order
        sizes = (held.outer, held.plane, held.channels) if turned else (1, 1, prod(held.shape))
        made = self.draft.tensor("float32", held.shape)
        settings = [*map(str, sizes), c_float(held.quantity.step), str(held.quantity.zero)]
        self.draft.call("integers_dequantize", settings, [name], made)
        return made

    def requantized(self, held: Held, quantity: Quantity) -> Held:
        """The same numbers in other steps."""
        if held.quantity == quantity:
            return held
        assert held.quantity is not None
        stored = np.arange(-128, 128, dtype=np.int16)
        return self.looked_up(held, quantity, quantity.store(held.quantity.real(stored)))

    def looked_up(self, held: Held, quantity: Quantity, table: np.ndarray) -> Held:
        """What a table of 256 entries makes of every integer."""
        form = self.integers(held)
        made = Held(held.shape, quantity=quantity)
        reads = [self.tensor(held, form), self.draft.constant(table.astype(np.int8))]
        self.draft.call("integers_look_up", [str(prod(held.shape))], reads, self.result(made, form))
        return made

    # Integers at the edges of the graph

    def read_as(self, held: Held, quantity: Quantity) -> Held:
        """Bytes that come into the graph, as the integers that they are."""
        name = self.tensor(held, Form.PLAIN)
        if held.dtype == "uint8":
            name = self._flipped(name, "int8", held.shape)
        return Held(held.shape, quantity=quantity, tensors={Form.FIRST: name})

    def unsigned(self, held: Held) -> str:
        """Integers that leave the graph, as unsigned bytes."""
        return self._flipped(self.tensor(held, Form.FIRST), "uint8", held.shape)

    def _flipped(self, name: str, dtype: str, shape: tuple[int, ...]) -> str:
        """128 more or less: the same bits but the first."""
        made = self.draft.tensor(dtype, shape)
        table = self.draft.constant(np.arange(256, dtype=np.uint8).view(np.int8))
        self.draft.call("integers_look_up", [str(prod(shape))], [name, table], made)
        return made

    # What TVM asks for

    def in_island(self, value: ir.Value, form: Form = Form.PLAIN) -> str:
        """The name of a value inside of the island, which takes it in where it does not make it."""
        held = self.held.get(value)
        if held is None:
            return self._constant_of_the_island(value)
        if form not in held.inside:
            name = self.tensor(held, form)
            held.inside[form] = f"{value.name} {form.value}"
            dtype = held.dtype if form is Form.PLAIN else "int8"
            self.draft.island.inputs[held.inside[form]] = Tensor(name, dtype, held.shape)  # it may be a view
        return held.inside[form]

    def _constant_of_the_island(self, value: ir.Value) -> str:
        import onnx_ir as ir

        name = str(value.name)
        island = self.draft.island
        if value.const_value is not None:
            if name not in island.constants:
                tensor = ir.to_proto(value.const_value)
                tensor.name = name
                island.constants[name] = tensor
            return name
        node = value.producer()
        assert node is not None
        if all(name not in made.output for made in island.nodes):
            for constant in node.inputs:
                if constant is not None:
                    self._constant_of_the_island(constant)
            island.nodes.append(ir.to_proto(node))
        return name

    def graph_input(self, index: int, value: ir.Value) -> Tensor:
        assert value.dtype is not None
        tensor = Tensor(f"input {index}", value.dtype.numpy().name, shape_of(value))
        self.draft.tensors[tensor.name] = tensor
        self.held[value] = Held(tensor.shape, tensor.dtype, tensors={Form.PLAIN: tensor.name})
        return tensor
