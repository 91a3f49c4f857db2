"""Images of another size. The graph knows many ways to map pixels; the file three, of which one must agree."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from passes.dataset import Array
from toolkit.backends.litert.layout import channels_last
from toolkit.backends.litert.lowering import Lower, Lowering, Refused
from toolkit.backends.litert.reading import Step
from toolkit.backends.litert.tensors import Tensor

__all__ = ["LOWERINGS"]

_WAYS: Sequence[Mapping[str, bool]] = ({}, {"half_pixel_centers": True}, {"align_corners": True})
"""Options of the kernels, in the order in which they are tried."""


def _resize(lowering: Lowering, step: Step) -> None:
    value, attributes = step.node.inputs[0], step.node.attributes
    assert value is not None
    shape, target = lowering.shape(value), lowering.shape(step.output)
    if len(shape) != 4 or shape[:2] != target[:2]:
        raise Refused("resizes other axes than height and width")
    mode = attributes.get_string("mode", "nearest")
    if mode not in ("nearest", "linear") or attributes.get_int("antialias", 0) != 0:
        raise Refused(f"interpolates by {mode!r} or with antialiasing")
    order = channels_last(4)
    x = lowering.laid(value, order)
    wanted = [_positions(lowering, step, axis) for axis in (2, 3)]
    if mode == "linear" and x.quantization is not None:
        rounding = lowering.integers(step)
        if rounding is None or not (lowering.edges.integers or x.quantization.step <= 2 * rounding.step):
            x = lowering.dequantized(x)
    made = _nearest(lowering, step, x, wanted, target) if mode == "nearest" else _linear(lowering, x, wanted, target)
    lowering.set(step.output, made, order)


def _linear(lowering: Lowering, x: Tensor, wanted: list[Array], target: tuple[int, ...]) -> Tensor:
    sizes = x.shape[1:3]
    for way in _WAYS:
        if all(
            np.allclose(_inside(_mapped(size, len(w), way), size), _inside(w, size), atol=1e-4)
            for size, w in zip(sizes, wanted, strict=True)
        ):
            return _kernel(lowering, "RESIZE_BILINEAR", x, target, way)
    raise Refused("maps pixels in a way that the kernels do not have")


def _nearest(lowering: Lowering, step: Step, x: Tensor, wanted: list[Array], target: tuple[int, ...]) -> Tensor:
    """A kernel that picks the same pixels, else their positions one by one."""
    rule = step.node.attributes.get_string("nearest_mode", "round_prefer_floor")
    sizes = x.shape[1:3]
    picked = [np.clip(_ROUNDINGS[rule](w), 0, size - 1).astype(np.int32) for w, size in zip(wanted, sizes, strict=True)]
    for way in _WAYS:
        kernel = [_picked(size, len(p), way) for size, p in zip(sizes, picked, strict=True)]
        if all(np.array_equal(a, b) for a, b in zip(kernel, picked, strict=True)):
            return _kernel(lowering, "RESIZE_NEAREST_NEIGHBOR", x, target, way)
    for axis, positions in enumerate(picked, start=1):
        shape = [len(positions) if i == axis else size for i, size in enumerate(x.shape)]
        x = lowering.emit("GATHER", [x, lowering.constant(positions)], shape, x.dtype, x.quantization, {"axis": axis})
    return x


def _kernel(lowering: Lowering, code: str, x: Tensor, target: tuple[int, ...], way: Mapping[str, bool]) -> Tensor:
    size = lowering.constant(np.array(target[2:], np.int32))
    shape = [target[axis] for axis in channels_last(4)]
    return lowering.emit(code, [x, size], shape, x.dtype, x.quantization, way)


def _positions(lowering: Lowering, step: Step, axis: int) -> Array:
    """Where in the image each pixel of the result lies, before it is brought inside."""
    value = step.node.inputs[0]
    assert value is not None
    size, result = lowering.shape(value)[axis], lowering.shape(step.output)[axis]
    scales = lowering.numbers(step.input(2))
    scale = float(scales.reshape(-1)[axis]) if scales is not None and scales.size == 4 else result / size
    at = np.arange(result, dtype=np.float64)
    mode = step.node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
    if mode == "asymmetric":
        return at / scale
    if mode == "align_corners":
        return at * (size - 1) / (result - 1) if result > 1 else at * 0
    if mode == "pytorch_half_pixel" and result <= 1:
        return at * 0
    if mode == "half_pixel_symmetric":
        return size / 2 * (1 - result / (scale * size)) + (at + 0.5) / scale - 0.5
    if mode in ("half_pixel", "pytorch_half_pixel"):
        return (at + 0.5) / scale - 0.5
    raise Refused(f"maps pixels by {mode!r}")


def _mapped(size: int, result: int, way: Mapping[str, bool]) -> Array:
    """Where the bilinear kernel looks."""
    at = np.arange(result, dtype=np.float64)
    if way.get("align_corners"):
        return at * ((size - 1) / (result - 1)) if result > 1 else at * (size / result)
    scale = size / result
    return (at + 0.5) * scale - 0.5 if way.get("half_pixel_centers") else at * scale


def _picked(size: int, result: int, way: Mapping[str, bool]) -> Array:
    """Which pixel the nearest-neighbour kernel takes, in its own float32 arithmetic."""
    at = np.arange(result, dtype=np.float32)
    if way.get("align_corners") and result > 1:
        scaled = at * np.float32((size - 1) / (result - 1))
        return _inside(np.floor(scaled + np.float32(0.5)), size).astype(np.int32)
    offset = np.float32(0.5 if way.get("half_pixel_centers") else 0)
    return _inside(np.floor((at + offset) * np.float32(size / result)), size).astype(np.int32)


def _inside(positions: Array, size: int) -> Array:
    inside: Array = np.clip(positions, 0, size - 1)
    return inside


_ROUNDINGS: Mapping[str, Callable[[Array], Array]] = {
    "round_prefer_floor": lambda p: np.ceil(p - 0.5),
    "round_prefer_ceil": lambda p: np.floor(p + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}

LOWERINGS: Mapping[str, Lower] = {"Resize": _resize}
