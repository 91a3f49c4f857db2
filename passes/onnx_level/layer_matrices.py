"""A layer as products of matrices: outputs = weights @ columns for each group of channels.

Legend: G groups, R outputs of a group, K inputs of one output, P positions (pixels, tokens) of a sample.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from passes.dataset import Array

if TYPE_CHECKING:
    import onnx

__all__ = ["channel_means", "columns", "from_rows", "is_a_product", "output_axis", "rows"]


def is_a_product(node: onnx.NodeProto, weights: Array) -> bool:
    """Whether `rows` and `columns` can write the layer: a Conv of stated padding, a Gemm, a MatMul by a matrix."""
    given = _attributes(node)
    if node.op_type == "Conv":
        return given.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID") and weights.ndim >= 3
    if node.op_type == "Gemm":
        return not given.get("transA", 0) and given.get("alpha", 1.0) == 1.0 and given.get("beta", 1.0) == 1.0
    return node.op_type == "MatMul" and weights.ndim == 2


def output_axis(node: onnx.NodeProto) -> int:
    """Which axis of the weights counts the outputs."""
    if node.op_type == "Gemm":
        return 0 if _attributes(node).get("transB", 0) else 1
    return 0 if node.op_type == "Conv" else 1


def rows(node: onnx.NodeProto, weights: Array) -> Array:
    """The weights as (G, R, K)."""
    if node.op_type == "Conv":
        groups = _attributes(node).get("group", 1)
        return weights.reshape(groups, len(weights) // groups, -1)
    return np.ascontiguousarray(weights if output_axis(node) == 0 else weights.T)[None]


def from_rows(node: onnx.NodeProto, matrices: Array, shape: tuple[int, ...]) -> Array:
    """Inverse of `rows`."""
    if node.op_type == "Conv":
        return matrices.reshape(shape)
    return np.ascontiguousarray(matrices[0] if output_axis(node) == 0 else matrices[0].T)


def columns(node: onnx.NodeProto, x: Array, weights: Array) -> Array:
    """The activation `x` of one sample as (G, K, P), float32."""
    if node.op_type != "Conv":
        return np.ascontiguousarray(x.reshape(-1, x.shape[-1]).T)[None]
    given, spatial = _attributes(node), weights.ndim - 2
    kernel = weights.shape[2:]
    strides, dilations = (list(given.get(name, [1] * spatial)) for name in ("strides", "dilations"))
    pads = list(given.get("pads", [0] * 2 * spatial))
    x = np.pad(x, [(0, 0), (0, 0), *zip(pads[:spatial], pads[spatial:], strict=True)])
    reach = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(x, reach, axis=tuple(range(2, 2 + spatial)))
    steps = (*(slice(None, None, s) for s in strides), *(slice(None, None, d) for d in dilations))
    windows = windows[(slice(None), slice(None), *steps)]
    front = (1, *range(2 + spatial, 2 + 2 * spatial), 0, *range(2, 2 + spatial))  # channel, kernel, batch, place
    groups = given.get("group", 1)
    return windows.transpose(front).reshape(groups, x.shape[1] // groups * int(np.prod(kernel)), -1)


def channel_means(node: onnx.NodeProto, y: Array) -> Array:
    """(channels,) of an output, in float64."""
    axis = 1 if node.op_type in ("Conv", "ConvTranspose") else y.ndim - 1
    return np.asarray(y.mean(axis=tuple(i for i in range(y.ndim) if i != axis), dtype=np.float64))


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    from onnx import helper

    return {a.name: helper.get_attribute_value(a) for a in node.attribute}
