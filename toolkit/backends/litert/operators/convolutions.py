"""Convolutions: in one dimension as (1, k) in two, in groups, depthwise, transposed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from passes.dataset import Array
from toolkit.backends.litert.layout import channels_last
from toolkit.backends.litert.lowering import Lower, Lowering, Refused
from toolkit.backends.litert.operators.windows import Windows, image_shape, windows_of
from toolkit.backends.litert.reading import Step
from toolkit.backends.litert.schema import ACTIVATIONS, PADDINGS
from toolkit.backends.litert.tensors import Quantization, Tensor

__all__ = ["LOWERINGS", "bias_of", "finish_image", "image_of", "padded", "weights_of"]


def image_of(lowering: Lowering, step: Step, *, real: bool) -> Tensor:
    """The first operand with its channels last, (n, height, width, channels)."""
    value = step.node.inputs[0]
    assert value is not None
    shape = lowering.shape(value)
    wanted = image_shape(shape)
    return lowering.reshaped(lowering.laid(value, channels_last(len(shape)), real=real), wanted)


def finish_image(lowering: Lowering, step: Step, image: Tensor) -> None:
    """Take an image with its channels last as the result."""
    shape = lowering.shape(step.output)
    order = channels_last(len(shape))
    image.name = image.name or str(step.output.name)
    lowering.set(step.output, lowering.reshaped(image, tuple(shape[axis] for axis in order)), order)


def padded(lowering: Lowering, image: Tensor, windows: Windows, fill: float | None = None) -> Tensor:
    """The image with a border of zeros, or of the number `fill`, as an operator of its own."""
    sides = [(0, 0), *zip(windows.before, windows.after, strict=True), (0, 0)]
    amounts = lowering.constant(np.array(sides, np.int32))
    shape = [size + before + after for size, (before, after) in zip(image.shape, sides, strict=True)]
    q = image.quantization
    if fill is None:
        return lowering.emit("PAD", [image, amounts], shape, image.dtype, q)
    number = np.array(-128, np.int8) if q is not None else np.array(fill, np.float32)
    return lowering.emit("PADV2", [image, amounts, lowering.constant(number, q)], shape, image.dtype, q)


def weights_of(lowering: Lowering, step: Step, position: int = 1) -> Tensor:
    """The constant weights as they are stored.

    Raises:
        Refused: they vary.
    """
    value = step.input(position)
    if value is None or not lowering.is_constant(value):
        raise Refused("has weights that vary with the input")
    return lowering.view(value).tensor


def symmetric_int8(weights: Tensor) -> bool:
    q = weights.quantization
    return weights.dtype == "int8" and q is not None and q.symmetric


def bias_of(lowering: Lowering, step: Step, q: Quantization, channels: int, position: int = 2) -> Tensor:
    """The bias in int32, in steps of input times weight; zeros where there is none."""
    value = step.input(position)
    scale = np.broadcast_to(np.array(q.scale, np.float64), channels) if q.whole else np.array(q.scale, np.float64)
    wanted = Quantization(q.scale, (0,) * len(q.scale))
    if value is None:
        return lowering.constant(np.zeros(channels, np.int32), wanted)
    stored = lowering.view(value).tensor if lowering.is_constant(value) else None
    if stored is not None and stored.dtype == "int32" and stored.quantization is not None and _close(stored, q):
        assert stored.data is not None
        return lowering.constant(stored.data.reshape(-1), wanted)
    real = np.broadcast_to(lowering.need_numbers(step, position, "a bias").reshape(-1), channels)
    steps = np.rint(real.astype(np.float64) / scale)
    if np.abs(steps).max(initial=0) >= 2**31:
        raise Refused("has a bias that is too large for its weights' scale")
    return lowering.constant(steps.astype(np.int32), wanted)


def _close(stored: Tensor, q: Quantization) -> bool:
    assert stored.quantization is not None
    return stored.quantization.symmetric and np.allclose(stored.quantization.scale, q.scale, rtol=1e-5, atol=0)


def product_scale(x: Quantization, weights: Quantization) -> Quantization:
    """The scale of products, as the kernels expect it of the bias."""
    scale = np.float32(x.step) * np.asarray(weights.scale, np.float32)
    return Quantization(tuple(float(s) for s in scale), (0,) * len(scale))


def real_bias(lowering: Lowering, step: Step, channels: int, position: int = 2) -> Tensor:
    """The bias in float32; zeros where there is none."""
    if step.input(position) is None:
        return lowering.constant(np.zeros(channels, np.float32))
    real = lowering.need_numbers(step, position, "a bias").astype(np.float32)
    return lowering.constant(np.broadcast_to(real.reshape(-1), channels))


def _filters(weights: Tensor, permutation: tuple[int, ...]) -> Tensor:
    """Filters (out, in, height, width) in the order of the file; those in one dimension get a height of one."""
    assert weights.data is not None
    data: Array = weights.data if weights.data.ndim == 4 else weights.data[:, :, None, :]
    q = weights.quantization
    if q is not None and not q.whole:
        q = Quantization(q.scale, q.zero_point, permutation.index(q.axis))
    moved = np.ascontiguousarray(np.transpose(data, permutation))
    return Tensor(weights.name, moved.shape, weights.dtype, q, moved)


def _conv(lowering: Lowering, step: Step) -> None:
    assert step.node.inputs[0] is not None
    shape, result = lowering.shape(step.node.inputs[0]), lowering.shape(step.output)
    image_shape(shape)
    weights = weights_of(lowering, step)
    if weights.quantization is not None and not weights.quantization.whole and weights.quantization.axis != 0:
        raise Refused("has weights with scales along another axis than the output channels")
    rounding = lowering.integers(step) if symmetric_int8(weights) else None
    image = image_of(lowering, step, real=rounding is None)
    groups = step.node.attributes.get_int("group", 1)
    windows = windows_of(step.node, shape[2:], result[2:], weights.shape[2:])
    if not windows.padding:
        image = padded(lowering, image, windows)
    options = {
        "padding": PADDINGS[windows.padding or "VALID"],
        "stride_h": windows.strides[0],
        "stride_w": windows.strides[1],
        "dilation_h_factor": windows.dilations[0],
        "dilation_w_factor": windows.dilations[1],
        "fused_activation_function": ACTIVATIONS[step.activation],
    }
    depthwise = groups == shape[1] > 1
    if depthwise:
        options["depth_multiplier"] = result[1] // shape[1]
        filters = _filters(weights, (1, 2, 3, 0))
    else:
        filters = _filters(weights, (0, 2, 3, 1))
    code = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
    made = _product(lowering, step, code, image, filters, rounding, image_shape(result), options, groups)
    finish_image(lowering, step, made)


def _product(
    lowering: Lowering, step: Step, code: str, image: Tensor, filters: Tensor, rounding: Quantization | None,
    shape: tuple[int, ...], options: Mapping[str, int], groups: int,
) -> Tensor:  # fmt: skip
    channels = shape[-1]
    if rounding is None:
        operands = [image, lowering.dequantized(filters), real_bias(lowering, step, channels)]
    else:
        assert image.quantization is not None
        assert filters.quantization is not None
        scale = product_scale(image.quantization, filters.quantization)
        operands = [image, filters, bias_of(lowering, step, scale, channels)]
    if code == "CONV_2D" and groups > 1 and lowering.edges.integers:
        return _in_groups(lowering, operands, rounding, shape, options, groups)
    return lowering.emit(code, operands, shape, "float32" if rounding is None else "int8", rounding, options)


def _in_groups(
    lowering: Lowering, operands: list[Tensor], rounding: Quantization | None, shape: tuple[int, ...],
    options: Mapping[str, int], groups: int,
) -> Tensor:  # fmt: skip
    """One convolution for each group, for runtimes that have none in groups."""
    image, filters, bias = operands
    dtype = "float32" if rounding is None else "int8"
    part = (*image.shape[:-1], image.shape[-1] // groups)
    pieces = [Tensor("", part, image.dtype, image.quantization) for _ in range(groups)]
    lowering.split(image, pieces, axis=len(part) - 1)
    each = shape[-1] // groups
    results: list[Tensor | None] = []
    for i, piece in enumerate(pieces):
        rows = slice(i * each, (i + 1) * each)
        chosen = [piece, _rows(filters, rows), _rows(bias, rows)]
        results.append(lowering.emit("CONV_2D", chosen, (*shape[:-1], each), dtype, rounding, options))
    return lowering.emit("CONCATENATION", results, shape, dtype, rounding, {"axis": len(shape) - 1})


def _rows(tensor: Tensor, rows: slice) -> Tensor:
    assert tensor.data is not None
    q = tensor.quantization
    if q is not None and not q.whole:
        q = Quantization(q.scale[rows], q.zero_point[rows], q.axis)
    data = tensor.data[rows]
    return Tensor(tensor.name, data.shape, tensor.dtype, q, data)


def _conv_transpose(lowering: Lowering, step: Step) -> None:
    assert step.node.inputs[0] is not None
    shape, result = lowering.shape(step.node.inputs[0]), lowering.shape(step.output)
    wanted = image_shape(result)
    weights = weights_of(lowering, step)
    attributes = step.node.attributes
    if attributes.get_int("group", 1) != 1 or any(d != 1 for d in attributes.get_ints("dilations", [1])):
        raise Refused("is transposed with groups or dilations")
    q = weights.quantization
    per_output = q is None or q.whole or q.axis == 1
    rounding = lowering.integers(step) if symmetric_int8(weights) and per_output else None
    if not per_output:
        raise Refused("has weights with scales along another axis than the output channels")
    image = image_of(lowering, step, real=rounding is None)
    filters = _filters(weights, (1, 2, 3, 0))
    rank = len(shape) - 2
    strides = [1, *attributes.get_ints("strides", [1])] if rank == 1 else list(attributes.get_ints("strides", [1, 1]))
    full = [(i - 1) * s + k for i, s, k in zip(image.shape[1:3], strides, filters.shape[1:3], strict=True)]
    before = _cut_before(step, full, wanted[1:3], rank)
    padding, made_shape = _transposed_padding(image.shape, full, wanted, strides, before)
    options = {"padding": PADDINGS[padding], "stride_h": strides[0], "stride_w": strides[1]}
    sizes = lowering.constant(np.array(made_shape, np.int32))
    channels = wanted[-1]
    if rounding is None:
        operands = [sizes, lowering.dequantized(filters), image, real_bias(lowering, step, channels)]
    else:
        assert image.quantization is not None
        assert filters.quantization is not None
        scale = product_scale(image.quantization, filters.quantization)
        operands = [sizes, filters, image, bias_of(lowering, step, scale, channels)]
    dtype = "float32" if rounding is None else "int8"
    made = lowering.emit("TRANSPOSE_CONV", operands, made_shape, dtype, rounding, options)
    if made_shape != wanted:
        begin, size = (lowering.constant(np.array(v, np.int32)) for v in ((0, *before, 0), wanted))
        made = lowering.emit("SLICE", [made, begin, size], wanted, dtype, rounding)
    finish_image(lowering, step, made)


def _cut_before(step: Step, full: list[int], wanted: tuple[int, ...], rank: int) -> list[int]:
    """How many rows and columns of the whole result are cut off in front."""
    cut = [f - w for f, w in zip(full, wanted, strict=True)]
    automatic = step.node.attributes.get_string("auto_pad", "NOTSET")
    if automatic.startswith("SAME"):
        return [max(c, 0) // 2 if automatic == "SAME_UPPER" else max(c, 0) - max(c, 0) // 2 for c in cut]
    pads = list(step.node.attributes.get_ints("pads", [0] * 2 * rank))
    before = [0, pads[0]] if rank == 1 else pads[:2]
    if any(b + w > f for b, w, f in zip(before, wanted, full, strict=True)):
        raise Refused("adds output padding beyond what its windows reach")
    return before


def _transposed_padding(
    image: tuple[int, ...], full: list[int], wanted: tuple[int, ...], strides: list[int], before: list[int]
) -> tuple[str, tuple[int, ...]]:
    """The file's rule for padding that gives the wanted result, or the whole result, to be cut."""
    cut = [f - w for f, w in zip(full, wanted[1:3], strict=True)]
    if not any(cut):
        return "VALID", wanted
    same = all(
        b == c // 2 and -(-w // s) == i
        for b, c, w, s, i in zip(before, cut, wanted[1:3], strides, image[1:3], strict=True)
    )
    return ("SAME", wanted) if same else ("VALID", (wanted[0], *full, wanted[3]))


LOWERINGS: Mapping[str, Lower] = {"Conv": _conv, "ConvTranspose": _conv_transpose}
