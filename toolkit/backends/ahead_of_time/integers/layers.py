"""Convolutions and matrix products of stored weights, as calls of the two kernels that multiply."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from passes.dataset import Array
from passes.onnx_level.matching import only_user
from toolkit.backends.ahead_of_time.integers.c_values import Window
from toolkit.backends.ahead_of_time.integers.endings import Ending, ending_of
from toolkit.backends.ahead_of_time.integers.packing import depth_of, in_blocks, packed, padded_channels
from toolkit.backends.ahead_of_time.integers.quantities import HIGHEST, LOWEST, Quantity, weights_of
from toolkit.backends.ahead_of_time.integers.values import Form, Held, Values, shape_of
from toolkit.backends.ahead_of_time.integers.windows import window_of

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["convolve", "multiply_matrix"]

_ROWS_BYTES = 16 * 1024
"""Gathered at once: half of the smallest first-level cache among the machines."""

_ALIGNMENT, _POINTER = 64, 8

_CUT = 1e-3
"""Share of a bias: a sixteenth of a step where the bias alone is sixty steps."""


@dataclass(frozen=True, eq=False)
class _Layer:
    """A product with stored weights: (groups * channels, products) in the order in which inputs are gathered.

    `bias` is in steps of input scale times weight scale.
    """

    window: Window
    weights: Array
    scales: Array
    bias: Array


def convolve(values: Values, node: ir.Node) -> Ending | None:
    """A Conv of one or two dimensions whose input and weights are integers; None where it is another."""
    source = values.held.get(node.inputs[0]) if node.inputs[0] is not None else None
    stored = weights_of(node.inputs[1])
    window = window_of(node, source) if source is not None and stored is not None else None
    if source is None or source.quantity is None or stored is None or window is None:
        return None
    if stored.values.dtype != np.int8 or (stored.scale.size > 1 and stored.axis != 0):
        return None
    channels = stored.values.shape[0]
    window = replace(window, out_channels=channels, groups=node.attributes.get_int("group", 1))
    weights = np.moveaxis(stored.values.reshape(*stored.values.shape[:2], -1), 1, 2).reshape(channels, -1)
    scales = stored.scales(channels)
    bias = _bias(node.inputs[2] if len(node.inputs) > 2 else None, source.quantity, scales)
    layer = _folded(window, weights, scales, bias, source.quantity)
    return _emitted(values, layer, source, ending_of(node.outputs[0]), Form.LAST) if layer is not None else None


def multiply_matrix(values: Values, node: ir.Node) -> Ending | None:
    """A Gemm, or a MatMul and the bias that is added to it, with stored weights; None where it is another."""
    source = values.held.get(node.inputs[0]) if node.inputs[0] is not None else None
    stored = weights_of(node.inputs[1])
    if source is None or source.quantity is None or stored is None or stored.values.ndim != 2:
        return None
    attributes = node.attributes
    turned = node.op_type == "Gemm" and attributes.get_int("transB", 0) == 1
    if stored.values.dtype != np.int8 or (stored.scale.size > 1 and stored.axis != (0 if turned else 1)):
        return None
    if attributes.get_int("transA", 0) or any(attributes.get_float(name, 1.0) != 1.0 for name in ("alpha", "beta")):
        return None
    weights = stored.values if turned else np.ascontiguousarray(stored.values.T)
    channels, products = weights.shape
    if len(source.shape) < 2 or source.shape[-1] != products:
        return None
    scales = stored.scales(channels)
    added, value = _added(node)
    bias = _bias(added, source.quantity, scales)
    rows = prod(source.shape[:-1])
    window = Window(
        images=rows, in_height=1, in_width=1, in_channels=products, out_height=1, out_width=1, out_channels=channels
    )
    layer = _folded(window, weights, scales, bias, source.quantity)
    if layer is None:
        return None
    ending = ending_of(value)
    between = (value.producer(),) if value is not node.outputs[0] else ()
    ending = replace(ending, inside=(*(n for n in between if n is not None), *ending.inside))
    return _emitted(values, layer, source, ending, Form.FIRST)


def _added(node: ir.Node) -> tuple[ir.Value | None, ir.Value]:
    """The bias of a product, and where the sum ends."""
    value = node.outputs[0]
    if node.op_type == "Gemm":
        return (node.inputs[2] if len(node.inputs) > 2 else None), value
    user = only_user(value)
    if user is None or user.op_type != "Add" or user.domain:
        return None, value
    other = user.inputs[1] if user.inputs[0] is value else user.inputs[0]
    known = other is not None and (other.const_value is not None or weights_of(other) is not None)
    if other is None or not known or shape_of(other) != shape_of(value)[-1:]:
        return None, value
    return other, user.outputs[0]


def _bias(value: ir.Value | None, source: Quantity, scales: Array) -> Array | None:
    """In steps of the sums; None where it is not known, zeros where there is none."""
    if value is None:
        return np.zeros(len(scales), np.int64)
    steps = np.float64(source.step) * scales.astype(np.float64)
    if value.const_value is not None:
        real = value.const_value.numpy().astype(np.float64).reshape(-1)
    else:
        stored = weights_of(value)
        if stored is None:
            return None
        real = stored.values.reshape(-1) * stored.scales(stored.values.size).astype(np.float64)
    bias: Array = np.rint(np.broadcast_to(real, len(scales)) / steps).astype(np.int64)
    return bias


def _folded(window: Window, weights: Array, scales: Array, bias: Array | None, source: Quantity) -> _Layer | None:
    """With what the zero of the input adds to each sum inside the bias; None where sums do not fit 32 bits.

    A bias that only just fits, as quantizers choose it for channels of tiny weights, is cut where the worst input
    would carry its sum over the edge: by one part in thousands at most, and mostly by nothing.
    """
    if bias is None:
        return None
    exact = weights.astype(np.int64)
    folded = bias - source.zero * exact.sum(axis=1)
    above, below = np.maximum(exact, 0).sum(axis=1), np.minimum(exact, 0).sum(axis=1)
    most, least = HIGHEST * above + LOWEST * below, LOWEST * above + HIGHEST * below
    cut = np.clip(folded, -(2**31) - least, 2**31 - 1 - most)
    if (np.abs(cut - folded) > np.abs(folded) * _CUT).any():
        return None
    careful = int((weights == LOWEST).any())
    return _Layer(replace(window, careful=careful, zero=source.zero), weights, scales, cut.astype(np.int32))


def _emitted(values: Values, layer: _Layer, source: Held, ending: Ending, form: Form) -> Ending:
    """Call the kernel; its results are integers where the ending says what they stand for."""
    assert source.quantity is not None
    window = layer.window
    result = Held(shape_of(ending.value), quantity=ending.quantity)
    scale = np.float32(source.quantity.step) * layer.scales
    if ending.quantity is not None:
        scale = scale / ending.quantity.step
        window = replace(window, range=ending.range)
    read = [values.tensor(source, form)]
    alone = window.groups == window.in_channels == window.out_channels and window.groups > 1
    if alone and ending.quantity is not None:
        _channels(values, replace(layer, window=window), scale, read, values.result(result, form))
    else:
        _sums(values, replace(layer, window=window), scale, read, result, form)
    values.held[ending.value] = result
    return ending


def _channels(values: Values, layer: _Layer, scale: Array, read: list[str], write: str) -> None:
    """Every channel by itself."""
    draft, window = values.draft, layer.window
    places = layer.weights.shape[1]
    constants = [draft.constant(in_blocks(a)) for a in (layer.weights.T, layer.bias, scale.astype(np.float32))]
    row = -(-window.in_channels // _ALIGNMENT) * _ALIGNMENT
    draft.call("integers_convolve_channels", ["&window"], [*read, *constants], write, declared=window.declared,
               scratch_bytes=row + _POINTER * places, takes_scratch=True)  # fmt: skip


def _sums(values: Values, layer: _Layer, scale: Array, read: list[str], result: Held, form: Form) -> None:
    """Sums over channels. Inputs that lie as they are multiplied are not gathered."""
    draft, window = values.draft, layer.window
    depth = depth_of(layer.weights.shape[1])
    pixels = window.images * window.out_height * window.out_width
    gathers = not (_is_point(window) and window.groups == 1 and depth == window.in_channels)
    rows = min(max(4, _ROWS_BYTES // depth // 4 * 4), pixels)
    window = replace(window, depth=depth, rows=rows)
    constants = [
        draft.constant(packed(layer.weights, window.groups)),
        draft.constant(padded_channels(layer.bias, window.groups)),
        draft.constant(padded_channels(scale.astype(np.float32), window.groups)),
    ]
    scratch = rows * depth if gathers else 0
    if result.quantity is not None:
        draft.call("integers_convolve", ["&window"], [*read, *constants], values.result(result, form),
                   declared=window.declared, scratch_bytes=scratch, takes_scratch=True)  # fmt: skip
        return
    turns = form is Form.LAST and not result.one_order
    write = draft.tensor("float32", result.shape) if turns else values.result(result, Form.PLAIN)
    draft.call("integers_convolve_to_floats", ["&window"], [*read, *constants], write, declared=window.declared,
               scratch_bytes=scratch, takes_scratch=True)  # fmt: skip
    if turns:
        sizes = [str(n) for n in (result.outer, result.plane, result.channels)]
        draft.call("integers_transpose_floats", sizes, [write], values.result(result, Form.PLAIN))


def _is_point(window: Window) -> bool:
    """Whether each result reads one place, and each place is read in order."""
    sizes = (window.kernel_height, window.kernel_width, window.stride_height, window.stride_width)
    return sizes == (1, 1, 1, 1) and (window.in_height, window.in_width) == (window.out_height, window.out_width)
