"""Operators of two operands, element by element; the smaller one is repeated."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from passes.dataset import Array
from toolkit.backends.litert.layout import Order, View, identity, widened
from toolkit.backends.litert.lowering import Lower, Lowering, Refused
from toolkit.backends.litert.reading import Step
from toolkit.backends.litert.schema import ACTIVATIONS
from toolkit.backends.litert.tensors import Quantization, Tensor

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["LOWERINGS", "operand", "order_for"]

_INTEGER_KERNELS = frozenset({"ADD", "SUB", "MUL"})
_SAME_SCALE = frozenset({"MAXIMUM", "MINIMUM"})
_CLAMPS = frozenset({"ADD", "SUB", "MUL", "DIV"})
_TRUTHS = frozenset({"EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL"})


def order_for(lowering: Lowering, values: list[ir.Value], rank: int) -> Order:
    """The order in which the largest operand lies already; constants take any."""
    varying = [lowering.view(v) for v in values if not lowering.is_constant(v)]
    if not varying:
        return identity(rank)
    largest = max(varying, key=lambda view: (prod(view.tensor.shape), len(view.order)))
    return widened(largest, rank)


def operand(lowering: Lowering, value: ir.Value, order: Order, *, real: bool) -> Tensor:
    """An operand with as many axes as the result, in its order."""
    view = lowering.view(value)
    rank, shape = len(order), view.shape
    if prod(shape) == 1 and view.tensor.data is not None:
        tensor = lowering.reshaped(view.tensor, ())
    else:
        wide = widened(view, rank)
        extra = rank - len(view.order)
        tensor = lowering.reshaped(view.tensor, (1,) * extra + view.tensor.shape)
        tensor = lowering.arranged(View(tensor, wide), order)
    return lowering.dequantized(tensor) if real else tensor


def _binary(code: str) -> Lower:
    def lower(lowering: Lowering, step: Step) -> None:
        values = [v for v in step.inputs if v is not None]
        shape = lowering.shape(step.output)
        order = order_for(lowering, values, len(shape))
        rounding = _rounding(lowering, step, code, values)
        operands = [operand(lowering, value, order, real=rounding is None) for value in values]
        if len(types := {tensor.dtype for tensor in operands}) > 1 and rounding is None:
            raise Refused(f"computes with {' and '.join(sorted(types))}")
        if rounding is not None:
            operands = [_stored(lowering, tensor, code, rounding) for tensor in operands]
        made = _chained(lowering, step, code, operands, tuple(shape[axis] for axis in order), rounding)
        lowering.set(step.output, made, order)

    return lower


def _rounding(lowering: Lowering, step: Step, code: str, values: list[ir.Value]) -> Quantization | None:
    """The scale of the result where the kernel computes in integers, with constants that int8 holds well enough."""
    if code not in _INTEGER_KERNELS | _SAME_SCALE:
        return None
    rounding = lowering.integers(step)
    if rounding is None:
        return None
    for value in values:
        numbers = lowering.numbers(value)
        if numbers is None or lowering.quantization(value) is not None:
            continue
        others = [q for v in values if v is not value and (q := lowering.quantization(v)) is not None]
        if code in _SAME_SCALE or _spoiled(code, numbers, others, rounding) > 0.5:
            return None
    return rounding


def _spoiled(code: str, numbers: Array, others: list[Quantization], rounding: Quantization) -> float:
    """How far the rounding of a constant may move the result, in steps of the result."""
    q = _scale_for(numbers)
    error = float(np.abs(q.real(np.rint(numbers / q.step)) - numbers).max(initial=0))
    gain = max(abs(others[0].lowest), abs(others[0].highest)) if code == "MUL" and others else 1.0
    return error * gain / rounding.step


def _scale_for(numbers: Array) -> Quantization:
    """Symmetric; exact where all elements have one magnitude."""
    largest = float(np.abs(numbers).max(initial=0)) or 1.0
    alike = len(np.unique(np.abs(numbers))) == 1
    return Quantization.of(largest if alike else largest / 127, 0)


def _stored(lowering: Lowering, tensor: Tensor, code: str, rounding: Quantization) -> Tensor:
    """An operand as int8; in the scale of the result where the kernel wants that."""
    if tensor.quantization is None:
        assert tensor.data is not None
        q = _scale_for(tensor.data)
        return lowering.constant(np.rint(tensor.data / np.float32(q.step)).astype(np.int8), q)
    if code in _SAME_SCALE and tensor.quantization != rounding:
        return lowering.requantized(tensor, rounding)
    return tensor


def _chained(
    lowering: Lowering, step: Step, code: str, operands: list[Tensor], shape: tuple[int, ...],
    rounding: Quantization | None,
) -> Tensor:  # fmt: skip
    """Of more operands than two, one after the other."""
    if len(operands) == 1:
        return operands[0]
    dtype = "bool" if code in _TRUTHS else operands[0].dtype
    options = {"fused_activation_function": ACTIVATIONS[step.activation]} if code in _CLAMPS else {}
    made = operands[0]
    for other in operands[1:]:
        between = np.broadcast_shapes(made.shape, other.shape)
        made = lowering.emit(code, [made, other], between, dtype, rounding, options)
    assert made.shape == shape, (made.shape, shape)
    return made


def _pow(lowering: Lowering, step: Step) -> None:
    base, exponent = step.node.inputs
    assert base is not None
    numbers = lowering.numbers(exponent)
    if numbers is not None and numbers.size == 1 and float(numbers.reshape(())) in (0.5, 2.0):
        view = lowering.view(base)
        x = lowering.laid(base, view.order, real=True)
        if float(numbers.reshape(())) == 2.0:
            made = lowering.emit("MUL", [x, x], x.shape, x.dtype, None, {"fused_activation_function": 0})
        else:
            made = lowering.emit("SQRT", [x], x.shape, x.dtype)
        lowering.set(step.output, made, view.order)
        return
    _binary("POW")(lowering, step)


def _where(lowering: Lowering, step: Step) -> None:
    values = [v for v in step.inputs if v is not None]
    shape = lowering.shape(step.output)
    order = order_for(lowering, values, len(shape))
    operands = [operand(lowering, value, order, real=True) for value in values]
    target = tuple(shape[axis] for axis in order)
    lowering.set(step.output, lowering.emit("SELECT_V2", operands, target, operands[1].dtype), order)


_BY_CODE = {
    "Add": "ADD", "Sub": "SUB", "Mul": "MUL", "Div": "DIV", "Max": "MAXIMUM", "Min": "MINIMUM", "Equal": "EQUAL",
    "Greater": "GREATER", "GreaterOrEqual": "GREATER_EQUAL", "Less": "LESS", "LessOrEqual": "LESS_EQUAL",
    "And": "LOGICAL_AND", "Or": "LOGICAL_OR",
}  # fmt: skip

LOWERINGS: Mapping[str, Lower] = {
    **{name: _binary(code) for name, code in _BY_CODE.items()},
    "Pow": _pow,
    "Where": _where,
}
