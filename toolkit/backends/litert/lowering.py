"""Walk the graph once and draft the file: where each value lies, in which order, and as floats or as integers.

A value between QuantizeLinear and DequantizeLinear is one int8 tensor with their scale. An operator computes in
integers where all its activations are such tensors and its result is rounded to one; else its operands become floats
first, which is what the graph says, word for word.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from passes.dataset import Array
from targets.errors import InvalidInput
from targets.graph import SOURCE_KEY
from toolkit.backends.litert.kernels import refused_type
from toolkit.backends.litert.layout import Order, View, channels_last, identity, same_memory
from toolkit.backends.litert.reading import Step, steps
from toolkit.backends.litert.tensors import Draft, Operator, Quantization, Tensor

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["Edges", "Lower", "Lowering", "Refused", "lowered"]

_SMALL_ELEMENTS = 256
"""Stored constants of fewer elements are written as floats where floats are wanted."""


class Refused(Exception):
    """Why an operator cannot be written, in words that follow its name."""


@dataclass(frozen=True, kw_only=True)
class Edges:
    """How the network meets its caller.

    Args:
        integers: int8 tensors go in and come out where the graph rounds at its edges: the accelerator has no floats.
        channels_last: Inputs are taken as the first operators want them, so that nothing has to be moved.
    """

    integers: bool = False
    channels_last: bool = False


_UNKNOWN = "has no form in a .tflite here"
_SHOWN = 3
_SEVERAL_RESULTS = frozenset({"GRU", "LSTM", "RNN", "Split"})

Lower = Callable[["Lowering", Step], None]
"""Adds to the draft what computes a step."""


def lowered(
    graph: ir.Graph, operators: Mapping[str, Lower], edges: Edges, elsewhere: str = "choose a stack that runs ONNX"
) -> Lowering:
    """The draft of `graph`.

    Args:
        elsewhere: What to do with a network that cannot be written.

    Raises:
        InvalidInput: operators have no form in the file; every one is named.
    """
    lowering = Lowering(graph, edges, operators)
    if refusals := lowering.walk(graph):
        raise _refusal(refusals, elsewhere)
    lowering.finish(graph)
    return lowering


def _walked(lowering: Lowering, graph: ir.Graph, *, to_the_end: bool) -> dict[ir.Node, str]:
    operators = lowering.operators
    refusals: dict[ir.Node, str] = {}
    for step in steps(graph):
        try:
            if step.node.domain or step.node.op_type not in operators:
                raise Refused(_UNKNOWN)
            if (second := _second_result(step.node)) and step.node.op_type not in _SEVERAL_RESULTS:
                raise Refused(f"gives a second result that is used, {second!r}")
            operators[step.node.op_type](lowering, step)
        except Refused as reason:
            refusals[step.node] = str(reason)
            if not to_the_end:
                break
            lowering.stand_in(step)
    return refusals


def _refusal(refusals: Mapping[ir.Node, str], elsewhere: str) -> InvalidInput:
    """One operator of each kind; those without any form by kind alone, where there are many."""
    unknown = sorted({node.op_type for node, why in refusals.items() if why == _UNKNOWN})
    kinds: dict[str, str] = {}
    for node, why in sorted(refusals.items(), key=lambda item: item[1] != _UNKNOWN):
        kinds.setdefault(node.op_type, f"{node.op_type} {node.name or node.outputs[0].name!r}{_where(node)} {why}")
    shown = "; ".join(list(kinds.values())[:_SHOWN])
    if len(kinds) > _SHOWN and unknown:
        shown = f"{len(refusals)} operators, among them {', '.join(unknown)}, have no form there; {shown}"
    return InvalidInput(
        f"the network cannot be written as a .tflite: {shown}",
        hint=f"replace these operators in the model, or {elsewhere}",
    )


def _second_result(node: ir.Node) -> str:
    return next((str(v.name) for v in node.outputs[1:] if v.uses() or v.is_graph_output()), "")


def _where(node: ir.Node) -> str:
    source = node.metadata_props.get(SOURCE_KEY, "")
    return f" ({source})" if source else ""


class Lowering:
    """What is known of each value so far, and the operators drafted. The methods are the words of lowerings."""

    def __init__(self, graph: ir.Graph, edges: Edges, operators: Mapping[str, Lower]) -> None:
        self.draft = Draft()
        self.edges = edges
        self.operators = operators
        self.orders: dict[str, Order] = {}
        """In which order the network's inputs and outputs lie."""
        self.shuffled: dict[ir.Value, Array] = {}
        """Positions of features, for values whose features lie in another order than the graph says."""
        self._views: dict[ir.Value, View] = {}
        self._made: dict[tuple[Any, ...], Tensor] = {}
        self._origins: dict[Tensor, Tensor] = {}
        for value in graph.inputs:
            shape = self.shape(value)
            order = channels_last(len(shape)) if edges.channels_last and len(shape) > 2 else identity(len(shape))
            tensor = Tensor(str(value.name), tuple(shape[axis] for axis in order), dtype_of(value))
            self.draft.inputs[str(value.name)] = tensor
            self.orders[str(value.name)] = order
            self._views[value] = View(tensor, order)

    # ---- a graph, and graphs within it

    def walk(self, graph: ir.Graph, *, to_the_end: bool = True) -> dict[ir.Node, str]:
        """Draft every operator of `graph`; those that cannot be written, and why, or the first of them."""
        return _walked(self, graph, to_the_end=to_the_end)

    def body(self, graph: ir.Graph, outer: Mapping[ir.Value, Tensor]) -> Draft:
        """The network of a branch, whose inputs are the values `outer` of the graph around it.

        Raises:
            Refused: it holds an operator that cannot be written.
        """
        inner = Lowering(graph, Edges(), self.operators)
        for value, tensor in outer.items():
            given = Tensor(str(value.name), tensor.shape, tensor.dtype)
            inner.draft.inputs[str(value.name)] = given
            inner._views[value] = View(given, identity(len(tensor.shape)))
        for node, why in inner.walk(graph, to_the_end=False).items():
            raise Refused(f"holds {node.op_type} {node.name or node.outputs[0].name!r}, which {why}")
        inner.finish(graph)
        return inner.draft

    def within(self) -> Lowering:
        """An empty draft for a network of its own inside this one."""
        import onnx_ir

        return Lowering(onnx_ir.Graph((), (), nodes=()), Edges(), self.operators)

    # ---- what is known of a value

    def shape(self, value: ir.Value) -> tuple[int, ...]:
        """Its static shape."""
        if value.shape is None or not value.shape.is_static():
            raise Refused(f"has a result whose size is not known: {value.name!r}")
        sizes = tuple(int(d) for d in value.shape.dims)  # type: ignore[arg-type]
        if 0 in sizes:
            raise Refused(f"has an operand or result without elements: {value.name!r}")
        return sizes

    def view(self, value: ir.Value) -> View:
        """Where a value is stored; constants are taken into the draft."""
        if value not in self._views:
            if value.const_value is None:
                raise Refused(f"reads {value.name!r}, which nothing computes here")
            data = value.const_value.numpy()
            tensor = Tensor(str(value.name), tuple(data.shape), data.dtype.name, data=data)
            self._views[value] = View(tensor, identity(data.ndim))
        return self._views[value]

    def is_constant(self, value: ir.Value) -> bool:
        return value.const_value is not None or (value in self._views and self.view(value).tensor.data is not None)

    def numbers(self, value: ir.Value | None) -> Array | None:
        """The real numbers of a constant, by the value's own axes; None where it is none."""
        if value is None or not self.is_constant(value):
            return None
        view = self.view(value)
        data = view.tensor.data
        assert data is not None
        if (q := view.tensor.quantization) is not None:
            data = q.real(data)
        elif data.dtype == np.float16:
            data = data.astype(np.float32)
        return np.transpose(data, np.argsort(view.order))

    def need_numbers(self, step: Step, position: int, what: str) -> Array:
        """The constant that an operand is.

        Raises:
            Refused: it varies.
        """
        found = self.numbers(step.input(position))
        if found is None:
            raise Refused(f"has {what} that vary with the input")
        return found

    def quantization(self, value: ir.Value) -> Quantization | None:
        """The scale of a value that is stored as int8 with one scale; None for others."""
        tensor = self.view(value).tensor
        return tensor.quantization if tensor.quantization is not None and tensor.quantization.whole else None

    def activations(self, step: Step) -> list[ir.Value]:
        """The operands that vary."""
        return [v for v in step.inputs if v is not None and not self.is_constant(v)]

    def rounding(self, step: Step) -> Quantization | None:
        """The scale to which a step's result is rounded, where nothing reads it before that."""
        if step.output.is_graph_output():
            return None
        users = [use.node for use in step.output.uses()]
        found = {self.scale_of(node) for node in users if node.op_type == "QuantizeLinear"}
        only = all(node.op_type == "QuantizeLinear" for node in users)
        return found.pop() if only and len(found) == 1 else None

    def integers(self, step: Step) -> Quantization | None:
        """The scale of the result of a step that computes in integers; None where it computes in floats."""
        varying = self.activations(step)
        if not varying or any(self.quantization(v) is None for v in varying):
            return None
        return self.rounding(step)

    def scale_of(self, node: ir.Node) -> Quantization:
        """The parameters of a QuantizeLinear or DequantizeLinear, as int8 has them.

        Raises:
            Refused: they vary, or are those of another type.
        """
        scale = self.numbers(node.inputs[1])
        given = node.inputs[2] if len(node.inputs) > 2 else None
        zero = self.numbers(given)
        if scale is None or (given is not None and zero is None):
            raise Refused("finds its scale at run time")
        if zero is None:
            stored = node.inputs[0] if node.op_type == "DequantizeLinear" else node.outputs[0]
            zero = np.zeros(scale.shape, stored.dtype.numpy() if stored is not None and stored.dtype else np.uint8)
        if zero.dtype.name not in _SHIFTS:
            raise Refused(f"stores {zero.dtype.name}")
        if scale.ndim > 1:
            raise Refused("has a scale for each block")
        shift = _SHIFTS[zero.dtype.name]
        axis = int(node.attributes.get_int("axis", 1)) if scale.size > 1 else 0
        scales = tuple(float(s) for s in scale.astype(np.float32).reshape(-1))
        return Quantization(scales, tuple(int(z) - shift for z in zero.astype(np.int64).reshape(-1)), axis)

    # ---- tensors in the order and type that an operator wants

    def laid(self, value: ir.Value, order: Order, *, real: bool = False) -> Tensor:
        """`value` in memory as `order` says, as it is stored or, with `real`, as floats."""
        tensor = self.arranged(self.view(value), order)
        return self.dequantized(tensor) if real else tensor

    def arranged(self, view: View, order: Order) -> Tensor:
        tensor, shape = view.tensor, view.shape
        if order == view.order:
            return tensor
        target = tuple(shape[axis] for axis in order)
        permutation = tuple(view.order.index(axis) for axis in order)
        if tensor.data is not None:
            return self._once(("constant", tensor, order), lambda: _permuted(tensor, permutation))
        if same_memory(shape, order, view.order):
            return self.reshaped(tensor, target)
        moved = (self.constant(np.array(permutation, np.int32)),)
        return self._once(
            ("transpose", tensor, permutation),
            lambda: self.emit("TRANSPOSE", [tensor, *moved], target, tensor.dtype, tensor.quantization),
        )

    def reshaped(self, tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
        """The same elements in another shape; a reshape of a reshape starts from the first one's operand."""
        origin = self._origins.get(tensor, tensor)
        if origin.shape == shape:
            return origin
        if origin.data is not None:
            q = origin.quantization
            if q is not None and not q.whole:
                raise Refused("reshapes weights that have a scale for each channel")
            return Tensor(origin.name, shape, origin.dtype, q, origin.data.reshape(shape))

        def make() -> Tensor:
            wanted = self.constant(np.array(shape, np.int32))
            made = self.emit(
                "RESHAPE", [origin, wanted], shape, origin.dtype, origin.quantization, {"new_shape": shape}
            )
            self._origins[made] = origin
            return made

        return self._once(("reshape", origin, shape), make)

    def dequantized(self, tensor: Tensor) -> Tensor:
        """The same numbers as float32."""
        if tensor.dtype != "float16" and tensor.quantization is None:
            return tensor
        if tensor.data is not None and tensor.data.size < _SMALL_ELEMENTS:
            q = tensor.quantization
            data = tensor.data.astype(np.float32) if q is None else q.real(tensor.data)
            return self._once(("floats", tensor), lambda: Tensor(tensor.name, tensor.shape, "float32", data=data))
        return self._once(("dequantize", tensor), lambda: self.emit("DEQUANTIZE", [tensor], tensor.shape, "float32"))

    def requantized(self, tensor: Tensor, to: Quantization) -> Tensor:
        """The same numbers rounded to another scale."""
        if tensor.quantization == to:
            return tensor
        return self._once(("quantize", tensor, to), lambda: self.emit("QUANTIZE", [tensor], tensor.shape, "int8", to))

    def constant(self, data: Array, quantization: Quantization | None = None, name: str = "") -> Tensor:
        return Tensor(name, tuple(data.shape), data.dtype.name, quantization, data)

    def _once(self, key: tuple[Any, ...], make: Callable[[], Tensor]) -> Tensor:
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]

    # ---- results

    def emit(
        self,
        code: str,
        inputs: Sequence[Tensor | None],
        shape: Sequence[int],
        dtype: str,
        quantization: Quantization | None = None,
        options: Mapping[str, Any] | None = None,
        name: str = "",
        bodies: Mapping[str, Draft] | None = None,
    ) -> Tensor:
        """Draft an operator with one result.

        Raises:
            Refused: its kernel does not compute in these types.
        """
        if other := refused_type(code, inputs):
            raise Refused(f"computes in {other}")
        result = Tensor(name, tuple(int(s) for s in shape), dtype, quantization)
        self.draft.operators.append(Operator(code, list(inputs), [result], options or {}, bodies or {}))
        return result

    def split(self, tensor: Tensor, pieces: Sequence[Tensor], axis: int) -> None:
        """Draft the division of a tensor along `axis` into these pieces."""
        where = self.constant(np.array(axis, np.int32))
        options = {"num_splits": len(pieces)}
        if len({piece.shape for piece in pieces}) == 1:
            self.draft.operators.append(Operator("SPLIT", [where, tensor], list(pieces), options))
            return
        sizes = self.constant(np.array([piece.shape[axis] for piece in pieces], np.int32))
        self.draft.operators.append(Operator("SPLIT_V", [tensor, sizes, where], list(pieces), options))

    def set(self, value: ir.Value, tensor: Tensor, order: Order) -> None:
        """Say where a value lies."""
        assert prod(tensor.shape) == prod(self.shape(value)), (value.name, tensor.shape)
        assert len(order) == len(self.shape(value))
        if not tensor.name and tensor.data is None:
            tensor.name = str(value.name)
        self._views[value] = View(tensor, order)

    def set_view(self, value: ir.Value, view: View) -> None:
        self._views[value] = view

    def stand_in(self, step: Step) -> None:
        """Results of a step that was refused, so that what follows can be looked at."""
        for value in {step.output, *step.node.outputs}:
            shape = () if value.shape is None else tuple(d if isinstance(d, int) else 1 for d in value.shape.dims)
            self._views[value] = View(Tensor(str(value.name), shape, dtype_of(value)), identity(len(shape)))

    def finish(self, graph: ir.Graph) -> None:
        """Lay the results down as the graph says, and drop what nobody reads."""
        for value in graph.outputs:
            view = self.view(value)
            order = view.order if self.edges.channels_last else identity(len(view.order))
            self.orders[str(value.name)] = order
            tensor = self.arranged(view, order)
            if not self.edges.integers:
                tensor = self._as_declared(tensor, dtype_of(value))
            self.draft.outputs[str(value.name)] = tensor
        self.draft = self.draft.without_dead_code()

    def _as_declared(self, tensor: Tensor, dtype: str) -> Tensor:
        if tensor.dtype == "int8" and dtype == "float32":
            return self.dequantized(tensor)
        q = tensor.quantization
        if tensor.dtype == "int8" and dtype == "uint8" and q is not None:
            shifted = Quantization(q.scale, (q.zero_point[0] + 128,))
            return self.emit("QUANTIZE", [tensor], tensor.shape, "uint8", shifted)
        return tensor


_SHIFTS: Mapping[str, int] = {"int8": 0, "uint8": 128, "int32": 0, "int4": 0, "uint4": 8}
"""What is taken from stored integers so that int8 holds them around the same zero."""


def dtype_of(value: ir.Value) -> str:
    """numpy's name of a value's type; half precision is computed in float32."""
    name = value.dtype.numpy().name if value.dtype is not None else "float32"
    return "float32" if name == "float16" else name


def _permuted(tensor: Tensor, permutation: Order) -> Tensor:
    assert tensor.data is not None
    q = tensor.quantization
    if q is not None and not q.whole:
        q = Quantization(q.scale, q.zero_point, permutation.index(q.axis))
    data = np.ascontiguousarray(np.transpose(tensor.data, permutation))
    return Tensor(tensor.name, data.shape, tensor.dtype, q, data)
