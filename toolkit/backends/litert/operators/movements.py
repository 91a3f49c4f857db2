"""Operators that move elements and change none: their results keep the scale of what they move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from passes.dataset import Array
from toolkit.backends.litert.layout import View, channels_last, identity, regrouped, widened
from toolkit.backends.litert.lowering import Lower, Lowering, Refused, dtype_of
from toolkit.backends.litert.operators.arithmetic import operand, order_for
from toolkit.backends.litert.reading import Step
from toolkit.backends.litert.tensors import Quantization, Tensor

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["LOWERINGS"]


def _first(step: Step) -> ir.Value:
    value = step.node.inputs[0]
    assert value is not None
    return value


# ---- other shapes and orders of the same elements


def _reshape(lowering: Lowering, step: Step) -> None:
    value = _first(step)
    view, to = lowering.view(value), lowering.shape(step.output)
    if prod(to) == 0:
        raise Refused("has a result without elements")
    if _flattens(view, to) and (weights := _flat_readers(step.output)):
        _flatten_as_it_lies(lowering, step, view, to, weights)
        return
    needed, order = regrouped(view.shape, view.order, to)
    tensor = lowering.arranged(view, needed)
    lowering.set(step.output, lowering.reshaped(tensor, tuple(to[axis] for axis in order)), order)


def _flattens(view: View, to: Sequence[int]) -> bool:
    """Whether several axes of features that lie in another order become one axis behind the batch."""
    spread = [axis for axis in view.order if view.shape[axis] != 1]
    return len(to) == 2 and to[0] == view.shape[0] == 1 and spread != sorted(spread) and view.tensor.data is None


def _flat_readers(value: ir.Value) -> list[ir.Node]:
    """The fully connected layers that are all that reads a flattened value; empty where others do."""
    found: list[ir.Node] = []
    ahead = [value]
    while ahead:
        current = ahead.pop()
        if current.is_graph_output():
            return []
        for use in current.uses():
            if use.node.op_type in ("QuantizeLinear", "DequantizeLinear", "Relu", "Identity", "Dropout"):
                ahead.append(use.node.outputs[0])
            elif use.node.op_type in ("Gemm", "MatMul") and use.idx == 0 and _stored(use.node.inputs[1]):
                found.append(use.node)
            else:
                return []
    return found


def _stored(value: ir.Value | None) -> bool:
    node = value.producer() if value is not None else None
    source = node.inputs[0] if node is not None and node.op_type == "DequantizeLinear" else value
    return source is not None and source.const_value is not None and len(source.const_value.shape) == 2


def _flatten_as_it_lies(
    lowering: Lowering, step: Step, view: View, to: tuple[int, ...], readers: Sequence[ir.Node]
) -> None:
    """Leave the features where they are; who reads them takes its weights in that order."""
    positions = np.arange(prod(view.shape)).reshape(view.shape).transpose(view.order).reshape(-1)
    lowering.set(step.output, lowering.reshaped(view.tensor, to), identity(2))
    for node in readers:
        value = node.inputs[0]
        assert value is not None
        lowering.shuffled[value] = positions


def _transpose(lowering: Lowering, step: Step) -> None:
    view = lowering.view(_first(step))
    rank = len(view.order)
    permutation = list(step.node.attributes.get_ints("perm", list(reversed(range(rank)))))
    inverse = {axis: i for i, axis in enumerate(permutation)}
    lowering.set_view(step.output, View(view.tensor, tuple(inverse[axis] for axis in view.order)))


# ---- several tensors


def _concat(lowering: Lowering, step: Step) -> None:
    values = [v for v in step.inputs if v is not None and 0 not in lowering.shape(v)]
    shape = lowering.shape(step.output)
    axis = step.node.attributes.get_int("axis", 0) % len(shape)
    order = order_for(lowering, values, len(shape))
    rounding = lowering.integers(step)
    tensors = [lowering.laid(v, order, real=rounding is None) for v in values]
    if rounding is not None:
        tensors = [_rounded(lowering, tensor, rounding) for tensor in tensors]
    options = {"axis": order.index(axis)}
    target = [shape[a] for a in order]
    lowering.set(
        step.output, lowering.emit("CONCATENATION", tensors, target, tensors[0].dtype, rounding, options), order
    )


def _rounded(lowering: Lowering, tensor: Tensor, q: Quantization) -> Tensor:
    if tensor.quantization is None:
        assert tensor.data is not None
        stored = np.clip(np.rint(tensor.data / np.float32(q.step)) + q.zero_point[0], -128, 127).astype(np.int8)
        return lowering.constant(stored, q)
    return lowering.requantized(tensor, q)


def _split(lowering: Lowering, step: Step) -> None:
    view = lowering.view(_first(step))
    axis = step.node.attributes.get_int("axis", 0) % len(view.order)
    position = view.order.index(axis)
    pieces = []
    for value in step.node.outputs:
        shape = lowering.shape(value)
        target = tuple(shape[a] for a in view.order)
        pieces.append(Tensor(str(value.name), target, view.tensor.dtype, view.tensor.quantization))
    lowering.split(lowering.arranged(view, view.order), pieces, position)
    for value, piece in zip(step.node.outputs, pieces, strict=True):
        lowering.set(value, piece, view.order)


# ---- parts


def _slice(lowering: Lowering, step: Step) -> None:
    view = lowering.view(_first(step))
    shape = view.shape
    starts, ends = (lowering.need_numbers(step, i, "bounds").reshape(-1) for i in (1, 2))
    axes = lowering.need_numbers(step, 3, "axes").reshape(-1) if step.input(3) is not None else range(len(starts))
    strides = lowering.need_numbers(step, 4, "steps").reshape(-1) if step.input(4) is not None else [1] * len(starts)
    chosen = [range(size) for size in shape]
    for start, end, axis, stride in zip(starts, ends, axes, strides, strict=True):
        size = shape[int(axis)]
        chosen[int(axis) % len(shape)] = range(*slice(int(start), _end(int(end), size), int(stride)).indices(size))
    _take(lowering, step, view, chosen)


def _end(end: int, size: int) -> int | None:
    """Before the first element, where a backward slice says so by a number beyond it."""
    return None if end < -size else end


def _take(lowering: Lowering, step: Step, view: View, chosen: Sequence[range]) -> None:
    """Elements of each axis, evenly spaced."""
    if any(len(r) == 0 for r in chosen):
        raise Refused("has a result without elements")
    laid = [chosen[axis] for axis in view.order]
    target = [len(r) for r in laid]
    tensor, q = view.tensor, view.tensor.quantization
    if tuple(target) == tensor.shape and all(r.step > 0 for r in laid):
        lowering.set_view(step.output, view)
        return
    begin = lowering.constant(np.array([r.start for r in laid], np.int32))
    if all(r.step == 1 or len(r) == 1 for r in laid):
        size = lowering.constant(np.array(target, np.int32))
        made = lowering.emit("SLICE", [tensor, begin, size], target, tensor.dtype, q)
    else:
        last = [r.start + len(r) * r.step for r in laid]
        mask = sum(1 << i for i, end in enumerate(last) if end < 0)
        ends = lowering.constant(np.array(last, np.int32))
        steps = lowering.constant(np.array([r.step for r in laid], np.int32))
        made = lowering.emit(
            "STRIDED_SLICE", [tensor, begin, ends, steps], target, tensor.dtype, q, {"begin_mask": 0, "end_mask": mask}
        )
    lowering.set(step.output, made, view.order)


def _gather(lowering: Lowering, step: Step) -> None:
    value, index = step.node.inputs
    assert value is not None
    assert index is not None
    shape = lowering.shape(value)
    axis = step.node.attributes.get_int("axis", 0) % len(shape)
    numbers = lowering.numbers(index)
    if numbers is None:
        indices = lowering.laid(index, identity(len(lowering.shape(index))))
    else:
        indices = lowering.constant(np.where(numbers < 0, numbers + shape[axis], numbers).astype(np.int32))
    if indices.dtype not in ("int32", "int64"):
        raise Refused(f"is given positions as {indices.dtype}")
    x = lowering.laid(value, identity(len(shape)))
    if x.quantization is not None and not x.quantization.whole:
        x = lowering.dequantized(x)
    target = lowering.shape(step.output)
    made = lowering.emit("GATHER", [x, indices], target, x.dtype, x.quantization, {"axis": axis})
    lowering.set(step.output, made, identity(len(target)))


# ---- borders and repetitions


def _pad(lowering: Lowering, step: Step) -> None:
    view = lowering.view(_first(step))
    rank = len(view.order)
    amounts = lowering.need_numbers(step, 1, "amounts").reshape(2, -1).astype(int)
    axes = lowering.numbers(step.input(3))
    sides = np.zeros((rank, 2), np.int32)
    for i, axis in enumerate(range(rank) if axes is None else axes.reshape(-1)):
        sides[int(axis)] = amounts[:, i]
    if (sides < 0).any():
        raise Refused("takes a border away")
    mode = step.node.attributes.get_string("mode", "constant")
    fill = lowering.numbers(step.input(2))
    number = 0.0 if fill is None else float(fill.reshape(()))
    x = view.tensor
    target = [size + before + after for size, (before, after) in zip(x.shape, sides[list(view.order)], strict=True)]
    operands = [x, lowering.constant(np.ascontiguousarray(sides[list(view.order)]))]
    if mode == "reflect":
        made = lowering.emit("MIRROR_PAD", operands, target, x.dtype, x.quantization, {"mode": 0})
    elif mode != "constant":
        raise Refused(f"fills the border by {mode!r}")
    elif number == 0:
        made = lowering.emit("PAD", operands, target, x.dtype, x.quantization)
    else:
        made = _filled(lowering, step, operands, target, number)
    lowering.set(step.output, made, view.order)


def _filled(lowering: Lowering, step: Step, operands: list[Tensor], target: Sequence[int], number: float) -> Tensor:
    """A border of another number than zero; integers in the scale of the result, which holds it."""
    rounding = lowering.integers(step)
    x = operands[0]
    if x.quantization is None:
        fill = lowering.constant(np.array(number, x.dtype))
        return lowering.emit("PADV2", [*operands, fill], target, x.dtype)
    if rounding is None:
        x = lowering.dequantized(x)
        fill = lowering.constant(np.array(number, np.float32))
        return lowering.emit("PADV2", [x, operands[1], fill], target, "float32")
    stored = np.clip(np.rint(number / rounding.step) + rounding.zero_point[0], -128, 127).astype(np.int8)
    x = lowering.requantized(x, rounding)
    fill = lowering.constant(stored, rounding)
    return lowering.emit("PADV2", [x, operands[1], fill], target, "int8", rounding)


def _expand(lowering: Lowering, step: Step) -> None:
    value, target = _first(step), lowering.shape(step.output)
    order = widened(lowering.view(value), len(target))
    x = operand(lowering, value, order, real=False)
    laid = [target[axis] for axis in order]
    shape = lowering.constant(np.array(laid, np.int32))
    made = lowering.emit("BROADCAST_TO", [x, shape], laid, x.dtype, x.quantization)
    lowering.set(step.output, made, order)


def _tile(lowering: Lowering, step: Step) -> None:
    view = lowering.view(_first(step))
    repeats = lowering.need_numbers(step, 1, "repetitions").reshape(-1)
    target = lowering.shape(step.output)
    x = view.tensor
    times = lowering.constant(np.array([repeats[axis] for axis in view.order], np.int32))
    made = lowering.emit("TILE", [x, times], [target[axis] for axis in view.order], x.dtype, x.quantization)
    lowering.set(step.output, made, view.order)


# ---- between channels and pixels


def _depth_to_space(lowering: Lowering, step: Step) -> None:
    value, block = _first(step), step.node.attributes.get_int("blocksize", 1)
    shape = lowering.shape(value)
    x = lowering.laid(value, channels_last(4))
    if step.node.attributes.get_string("mode", "DCR") == "CRD":
        x = _channels(lowering, x, _blocks_first(shape[1], block))
    lowering.set(step.output, _blocks(lowering, step, "DEPTH_TO_SPACE", x, block), channels_last(4))


def _space_to_depth(lowering: Lowering, step: Step) -> None:
    x = lowering.laid(_first(step), channels_last(4))
    block = step.node.attributes.get_int("blocksize", 1)
    made = _blocks(lowering, step, "SPACE_TO_DEPTH", x, block)
    if step.node.attributes.get_string("mode", "DCR") == "CRD":
        made = _channels(lowering, made, np.argsort(_blocks_first(made.shape[-1], block)))
    lowering.set(step.output, made, channels_last(4))


def _blocks(lowering: Lowering, step: Step, code: str, x: Tensor, block: int) -> Tensor:
    target = lowering.shape(step.output)
    shape = [target[a] for a in channels_last(4)]
    return lowering.emit(code, [x], shape, x.dtype, x.quantization, {"block_size": block})


def _blocks_first(channels: int, block: int) -> Array:
    """Channels with the block's axes last, in the order of those with them first."""
    return np.arange(channels).reshape(-1, block * block).T.reshape(-1)


def _channels(lowering: Lowering, x: Tensor, positions: Array) -> Tensor:
    indices = lowering.constant(positions.astype(np.int32))
    return lowering.emit("GATHER", [x, indices], x.shape, x.dtype, x.quantization, {"axis": len(x.shape) - 1})


def _checked(lower: Lower) -> Lower:
    """Kernels move most types; not those that no file holds."""

    def movable(lowering: Lowering, step: Step) -> None:
        value = _first(step)
        if dtype_of(value) in ("float64", "uint16", "uint32", "uint64"):
            raise Refused(f"moves {dtype_of(value)}")
        lower(lowering, step)

    return movable


LOWERINGS: Mapping[str, Lower] = {
    name: _checked(lower)
    for name, lower in {
        "Concat": _concat,
        "DepthToSpace": _depth_to_space,
        "Expand": _expand,
        "Flatten": _reshape,
        "Gather": _gather,
        "Pad": _pad,
        "Reshape": _reshape,
        "Slice": _slice,
        "SpaceToDepth": _space_to_depth,
        "Split": _split,
        "Squeeze": _reshape,
        "Tile": _tile,
        "Transpose": _transpose,
        "Unsqueeze": _reshape,
    }.items()
}
