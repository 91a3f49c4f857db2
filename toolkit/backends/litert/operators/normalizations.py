"""Normalisations, in the operators of the file; floats only."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from passes.dataset import Array
from toolkit.backends.litert.layout import Order
from toolkit.backends.litert.lowering import Lower, Lowering, Refused
from toolkit.backends.litert.operators.reductions import reduce_tensor
from toolkit.backends.litert.reading import Step
from toolkit.backends.litert.tensors import Tensor

__all__ = ["LOWERINGS"]

_PLAIN = {"fused_activation_function": 0}


def _layer_norm(lowering: Lowering, step: Step) -> None:
    value = step.node.inputs[0]
    assert value is not None
    order = lowering.view(value).order
    first = step.node.attributes.get_int("axis", -1) % len(order)
    axes = tuple(range(first, len(order)))
    made = _normal(lowering, step, order, axes)
    made = _scaled(lowering, step, made, order, axes)
    lowering.set(step.output, made, order)


def _instance_norm(lowering: Lowering, step: Step) -> None:
    value = step.node.inputs[0]
    assert value is not None
    order = lowering.view(value).order
    made = _normal(lowering, step, order, tuple(range(2, len(order))))
    made = _scaled(lowering, step, made, order, (1,))
    lowering.set(step.output, made, order)


def _normal(lowering: Lowering, step: Step, order: Order, axes: tuple[int, ...]) -> Tensor:
    """(x - mean) / sqrt(variance + epsilon) over `axes`."""
    value = step.node.inputs[0]
    assert value is not None
    x = lowering.laid(value, order, real=True)
    positions = tuple(order.index(axis) for axis in axes)
    mean = reduce_tensor(lowering, x, "MEAN", positions, keep=True)
    squares = lowering.emit("SQUARED_DIFFERENCE", [x, mean], x.shape, x.dtype)
    variance = reduce_tensor(lowering, squares, "MEAN", positions, keep=True)
    epsilon = lowering.constant(np.array(step.node.attributes.get_float("epsilon", 1e-5), np.float32))
    above = lowering.emit("ADD", [variance, epsilon], variance.shape, x.dtype, None, _PLAIN)
    inverse = lowering.emit("RSQRT", [above], above.shape, x.dtype)
    centred = lowering.emit("SUB", [x, mean], x.shape, x.dtype, None, _PLAIN)
    return lowering.emit("MUL", [centred, inverse], x.shape, x.dtype, None, _PLAIN)


def _scaled(lowering: Lowering, step: Step, x: Tensor, order: Order, axes: tuple[int, ...]) -> Tensor:
    """Times the second operand plus the third, which run along `axes`."""
    for code, position in (("MUL", 1), ("ADD", 2)):
        if step.input(position) is None:
            continue
        numbers = lowering.need_numbers(step, position, "weights").astype(np.float32)
        x = lowering.emit(code, [x, lowering.constant(_along(numbers, order, axes))], x.shape, x.dtype, None, _PLAIN)
    return x


def _along(numbers: Array, order: Order, axes: tuple[int, ...]) -> Array:
    """Numbers along some axes, with as many axes as the tensor has, in its order."""
    shape = [1] * len(order)
    sizes = numbers.shape if numbers.ndim == len(axes) else (1,) * (len(axes) - numbers.ndim) + numbers.shape
    for axis, size in zip(axes, sizes, strict=True):
        shape[axis] = size
    return numbers.reshape(shape).transpose(order)


def _batch_norm(lowering: Lowering, step: Step) -> None:
    value = step.node.inputs[0]
    assert value is not None
    scale, bias, mean, variance = (lowering.need_numbers(step, i, "weights").astype(np.float64) for i in range(1, 5))
    factor = scale / np.sqrt(variance + step.node.attributes.get_float("epsilon", 1e-5))
    order = lowering.view(value).order
    x = lowering.laid(value, order, real=True)
    for code, numbers in (("MUL", factor), ("ADD", bias - mean * factor)):
        other = lowering.constant(_along(numbers.astype(np.float32), order, (1,)))
        x = lowering.emit(code, [x, other], x.shape, x.dtype, None, _PLAIN)
    lowering.set(step.output, x, order)


def _lp_norm(lowering: Lowering, step: Step) -> None:
    value, attributes = step.node.inputs[0], step.node.attributes
    assert value is not None
    order = lowering.view(value).order
    axis = attributes.get_int("axis", -1) % len(order)
    if attributes.get_int("p", 2) != 2:
        raise Refused("normalises by another norm than the square root of squares")
    if order[-1] != axis:
        order = (*(a for a in order if a != axis), axis)
    x = lowering.laid(value, order, real=True)
    lowering.set(step.output, lowering.emit("L2_NORMALIZATION", [x], x.shape, x.dtype, None, _PLAIN), order)


LOWERINGS: Mapping[str, Lower] = {
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "LpNormalization": _lp_norm,
}
