"""Sums, means and extremes over axes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from toolkit.backends.litert.layout import Order
from toolkit.backends.litert.lowering import Lower, Lowering, Refused, dtype_of
from toolkit.backends.litert.reading import Step
from toolkit.backends.litert.schema import TYPES
from toolkit.backends.litert.tensors import Tensor

__all__ = ["LOWERINGS", "axes_of", "reduce_tensor", "reduced"]

_SAME_SCALE = frozenset({"REDUCE_MAX", "REDUCE_MIN"})
_INTEGER_KERNELS = frozenset({"MEAN", "SUM"})


def axes_of(lowering: Lowering, step: Step, rank: int) -> tuple[int, ...]:
    """The axes that an operator works along, as an input since opset 13 or 18, as an attribute before."""
    given = lowering.need_numbers(step, 1, "axes") if step.input(1) is not None else None
    if given is None:
        axes = list(step.node.attributes.get_ints("axes", []))
    else:
        axes = [int(a) for a in given.reshape(-1)]
    if not axes and not step.node.attributes.get_int("noop_with_empty_axes", 0):
        axes = list(range(rank))
    return tuple(sorted(a % rank for a in axes))


def reduced(
    lowering: Lowering, step: Step, code: str, axes: tuple[int, ...], *, keep: bool, order: Order | None = None
) -> None:
    """Reduce the first operand over `axes`, in the order in which it lies or that is given."""
    value = step.node.inputs[0]
    assert value is not None
    order = order or lowering.view(value).order
    rounding = lowering.integers(step) if code in _INTEGER_KERNELS else None
    stays = rounding is not None or (code in _SAME_SCALE and lowering.quantization(value) is not None)
    x = lowering.laid(value, order, real=not stays)
    q = rounding if code in _INTEGER_KERNELS else x.quantization
    made = reduce_tensor(lowering, x, code, tuple(order.index(a) for a in axes), keep=keep)
    made.quantization = q
    lowering.set(step.output, made, order if keep else _left(order, axes))


def reduce_tensor(lowering: Lowering, x: Tensor, code: str, positions: tuple[int, ...], *, keep: bool) -> Tensor:
    where = lowering.constant(np.array(sorted(positions), np.int32))
    shape = [1 if i in positions else size for i, size in enumerate(x.shape) if keep or i not in positions]
    return lowering.emit(code, [x, where], shape, x.dtype, x.quantization, {"keep_dims": keep})


def _left(order: Order, axes: tuple[int, ...]) -> Order:
    """The order of what remains, its axes counted anew."""
    remain = [axis for axis in order if axis not in axes]
    rank = {axis: i for i, axis in enumerate(sorted(remain))}
    return tuple(rank[axis] for axis in remain)


def _reduce(code: str) -> Lower:
    def lower(lowering: Lowering, step: Step) -> None:
        value = step.node.inputs[0]
        assert value is not None
        axes = axes_of(lowering, step, len(lowering.shape(value)))
        if not axes:
            lowering.set_view(step.output, lowering.view(value))
            return
        reduced(lowering, step, code, axes, keep=bool(step.node.attributes.get_int("keepdims", 1)))

    return lower


def _of_squares(*, root: bool) -> Lower:
    def lower(lowering: Lowering, step: Step) -> None:
        value = step.node.inputs[0]
        assert value is not None
        order = lowering.view(value).order
        axes = axes_of(lowering, step, len(order))
        keep = bool(step.node.attributes.get_int("keepdims", 1))
        x = lowering.laid(value, order, real=True)
        squares = lowering.emit("MUL", [x, x], x.shape, x.dtype, None, {"fused_activation_function": 0})
        made = reduce_tensor(lowering, squares, "SUM", tuple(order.index(a) for a in axes), keep=keep)
        if root:
            made = lowering.emit("SQRT", [made], made.shape, made.dtype)
        lowering.set(step.output, made, order if keep else _left(order, axes))

    return lower


def _arg(code: str) -> Lower:
    def lower(lowering: Lowering, step: Step) -> None:
        value = step.node.inputs[0]
        assert value is not None
        if step.node.attributes.get_int("select_last_index", 0) != 0:
            raise Refused("wants the last of equal elements")
        order = lowering.view(value).order
        axis = step.node.attributes.get_int("axis", 0) % len(order)
        keep = bool(step.node.attributes.get_int("keepdims", 1))
        x = lowering.laid(value, order)
        where = lowering.constant(np.array(order.index(axis), np.int32))
        shape = [size for i, size in enumerate(x.shape) if i != order.index(axis)]
        dtype = dtype_of(step.output)
        made = lowering.emit(code, [x, where], shape, dtype, None, {"output_type": TYPES[dtype]})
        if keep:
            shape = [1 if i == order.index(axis) else size for i, size in enumerate(x.shape)]
            made = lowering.reshaped(made, tuple(shape))
        lowering.set(step.output, made, order if keep else _left(order, (axis,)))

    return lower


LOWERINGS: Mapping[str, Lower] = {
    "ArgMax": _arg("ARG_MAX"),
    "ArgMin": _arg("ARG_MIN"),
    "ReduceL2": _of_squares(root=True),
    "ReduceMax": _reduce("REDUCE_MAX"),
    "ReduceMean": _reduce("MEAN"),
    "ReduceMin": _reduce("REDUCE_MIN"),
    "ReduceProd": _reduce("REDUCE_PROD"),
    "ReduceSum": _reduce("SUM"),
    "ReduceSumSquare": _of_squares(root=False),
}
