"""Attributes of convolutions and poolings as one window that moves over an image; a series is an image of one row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from toolkit.backends.ahead_of_time.integers.c_values import Window
from toolkit.backends.ahead_of_time.integers.values import Held, shape_of

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["window_of"]

_SERIES, _IMAGE = 3, 4


def window_of(node: ir.Node, source: Held) -> Window | None:
    """The window of a Conv or a pooling operator; None where it has more than two dimensions."""
    dims = len(source.shape) - 2
    if len(source.shape) not in (_SERIES, _IMAGE):
        return None
    result = shape_of(node.outputs[0])
    kernel = _numbers(node, "kernel_shape")
    if not kernel and len(node.inputs) > 1 and node.inputs[1] is not None:
        kernel = list(shape_of(node.inputs[1])[2:])
    stride, dilation = (_numbers(node, name) or [1] * dims for name in ("strides", "dilations"))
    before = _before(node, source.shape[2:], result[2:], kernel, stride, dilation)
    if before is None:
        return None
    (in_h, out_h, kernel_h, stride_h, dilation_h, top), (in_w, out_w, kernel_w, stride_w, dilation_w, left) = [
        (1, 1, 1, 1, 1, 0) for _ in range(2 - dims)
    ] + list(zip(source.shape[2:], result[2:], kernel, stride, dilation, before, strict=True))
    return Window(
        images=source.outer,
        in_height=in_h, in_width=in_w, in_channels=source.channels,
        out_height=out_h, out_width=out_w, out_channels=result[1],
        kernel_height=kernel_h, kernel_width=kernel_w, stride_height=stride_h, stride_width=stride_w,
        dilation_height=dilation_h, dilation_width=dilation_w, top=top, left=left,
    )  # fmt: skip


def _before(
    node: ir.Node, given: Sequence[int], result: Sequence[int], kernel: Sequence[int], stride: Sequence[int],
    dilation: Sequence[int],
) -> list[int] | None:  # fmt: skip
    """Padding before the first element of each axis."""
    mode = node.attributes.get_string("auto_pad", "NOTSET")
    if mode == "NOTSET":
        return (_numbers(node, "pads") or [0] * 2 * len(given))[: len(given)]
    if mode == "VALID":
        return [0] * len(given)
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        return None
    total = [
        max(0, (r - 1) * s + (k - 1) * d + 1 - g)
        for g, r, k, s, d in zip(given, result, kernel, stride, dilation, strict=True)
    ]
    return [t // 2 if mode == "SAME_UPPER" else t - t // 2 for t in total]


def _numbers(node: ir.Node, name: str) -> list[int]:
    return list(node.attributes.get_ints(name, []))
