"""Pools over windows, and over the whole image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod

import numpy as np

from passes.dataset import Array
from toolkit.backends.litert.layout import channels_last
from toolkit.backends.litert.lowering import Lower, Lowering, Refused
from toolkit.backends.litert.operators.convolutions import finish_image, image_of, padded, product_scale
from toolkit.backends.litert.operators.reductions import reduced
from toolkit.backends.litert.operators.windows import Windows, image_shape, windows_of
from toolkit.backends.litert.reading import Step
from toolkit.backends.litert.schema import ACTIVATIONS, PADDINGS
from toolkit.backends.litert.tensors import Quantization, Tensor

__all__ = ["LOWERINGS"]

_LOWEST = float(np.finfo(np.float32).min)


def _windows(lowering: Lowering, step: Step) -> tuple[Windows, tuple[int, ...]]:
    assert step.node.inputs[0] is not None
    shape, result = lowering.shape(step.node.inputs[0]), lowering.shape(step.output)
    wanted = image_shape(result)
    windows = windows_of(step.node, shape[2:], result[2:])
    if any(d != 1 for d in windows.dilations):
        raise Refused("has windows with gaps")
    return windows, wanted


def _options(step: Step, windows: Windows, padding: str) -> dict[str, int]:
    return {
        "padding": PADDINGS[padding],
        "stride_h": windows.strides[0],
        "stride_w": windows.strides[1],
        "filter_height": windows.kernel[0],
        "filter_width": windows.kernel[1],
        "fused_activation_function": ACTIVATIONS[step.activation],
    }


def _max_pool(lowering: Lowering, step: Step) -> None:
    windows, wanted = _windows(lowering, step)
    image = image_of(lowering, step, real=False)
    if image.dtype not in ("float32", "int8"):
        raise Refused(f"computes in {image.dtype}")
    if not windows.padding:
        image = padded(lowering, image, windows, _LOWEST)
    options = _options(step, windows, windows.padding or "VALID")
    made = lowering.emit("MAX_POOL_2D", [image], wanted, image.dtype, image.quantization, options)
    finish_image(lowering, step, made)


def _average_pool(lowering: Lowering, step: Step) -> None:
    windows, wanted = _windows(lowering, step)
    all_count = bool(step.node.attributes.get_int("count_include_pad", 0)) and windows.pads
    if all_count and step.node.attributes.get_int("ceil_mode", 0) != 0:
        raise Refused("counts padding in windows that reach beyond it")
    rounding = lowering.integers(step)
    even = all_count or not windows.pads
    value = step.node.inputs[0]
    assert value is not None
    if rounding is not None and lowering.quantization(value) == rounding and (even or windows.padding):
        image = image_of(lowering, step, real=False)
        finish_image(lowering, step, _averaged(lowering, step, image, windows, wanted, even=all_count))
    elif rounding is not None and even:
        finish_image(lowering, step, _summed(lowering, step, windows, wanted, rounding))
    else:
        image = image_of(lowering, step, real=True)
        finish_image(lowering, step, _averaged(lowering, step, image, windows, wanted, even=all_count))


def _averaged(
    lowering: Lowering, step: Step, image: Tensor, windows: Windows, wanted: tuple[int, ...], *, even: bool
) -> Tensor:
    """The kernel of the file leaves padding out of its averages where it pads by its own rule."""
    height, width = image.shape[1:3]
    padding = windows.padding
    if even or not padding:
        if windows.pads:
            image = padded(lowering, image, windows)
        padding = "VALID"
    made = lowering.emit("AVERAGE_POOL_2D", [image], wanted, image.dtype, image.quantization,
                         _options(step, windows, padding))  # fmt: skip
    if even or windows.padding or not windows.pads:
        return made
    share = _shares((height, width), windows, wanted[1:3])
    return lowering.emit("MUL", [made, lowering.constant(share)], wanted, "float32", None,
                         {"fused_activation_function": 0})  # fmt: skip


def _shares(image: tuple[int, ...], windows: Windows, result: tuple[int, ...]) -> Array:
    """Elements of a window by those of them that lie in the image, (1, height, width, 1)."""
    counts = []
    for size, k, s, before, count in zip(image, windows.kernel, windows.strides, windows.before, result, strict=True):
        start = np.arange(count) * s - before
        counts.append(np.minimum(start + k, size) - np.maximum(start, 0))
    inside = counts[0][:, None] * counts[1][None, :]
    shares: Array = (prod(windows.kernel) / inside).astype(np.float32)[None, :, :, None]
    return shares


def _summed(
    lowering: Lowering, step: Step, windows: Windows, wanted: tuple[int, ...], rounding: Quantization
) -> Tensor:
    """The average as a depthwise convolution with equal weights, which rounds once to a scale of its own."""
    image = image_of(lowering, step, real=False)
    if windows.pads:
        image = padded(lowering, image, windows)
    channels = image.shape[-1]
    weights = Quantization.of(1 / prod(windows.kernel), 0)
    ones = np.ones((1, *windows.kernel, channels), np.int8)
    each = Quantization(weights.scale * channels, (0,) * channels, 3)
    assert image.quantization is not None
    bias = lowering.constant(np.zeros(channels, np.int32), replace(product_scale(image.quantization, each), axis=0))
    options = {
        "padding": PADDINGS["VALID"],
        "stride_h": windows.strides[0],
        "stride_w": windows.strides[1],
        "depth_multiplier": 1,
        "dilation_h_factor": 1,
        "dilation_w_factor": 1,
        "fused_activation_function": ACTIVATIONS[step.activation],
    }
    return lowering.emit(
        "DEPTHWISE_CONV_2D", [image, lowering.constant(ones, each), bias], wanted, "int8", rounding, options
    )


def _global(code: str) -> Lower:
    def lower(lowering: Lowering, step: Step) -> None:
        value = step.node.inputs[0]
        assert value is not None
        rank = len(lowering.shape(value))
        reduced(lowering, step, code, tuple(range(2, rank)), keep=True, order=channels_last(rank))

    return lower


LOWERINGS: Mapping[str, Lower] = {
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global("MEAN"),
    "GlobalMaxPool": _global("REDUCE_MAX"),
    "MaxPool": _max_pool,
}
