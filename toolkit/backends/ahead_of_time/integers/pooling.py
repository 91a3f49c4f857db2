"""Largest and mean elements, of a window or of whole axes."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from toolkit.backends.ahead_of_time.integers.c_values import c_float
from toolkit.backends.ahead_of_time.integers.endings import Ending, ending_of
from toolkit.backends.ahead_of_time.integers.values import Form, Held, Values, shape_of
from toolkit.backends.ahead_of_time.integers.windows import window_of

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["average_pool", "largest", "mean"]


def largest(values: Values, node: ir.Node) -> Ending | None:
    """A MaxPool of integers, which are in the order of what they stand for."""
    source = values.held.get(node.inputs[0]) if node.inputs[0] is not None else None
    window = window_of(node, source) if source is not None and source.quantity is not None else None
    if source is None or window is None or len(node.outputs) > 1:
        return None
    result = Held(shape_of(node.outputs[0]), quantity=source.quantity)
    read = values.tensor(source, Form.LAST)
    values.draft.call(
        "integers_max_pool", ["&window"], [read], values.result(result, Form.LAST), declared=window.declared
    )
    values.held[node.outputs[0]] = result
    return Ending(node.outputs[0], source.quantity)


def average_pool(values: Values, node: ir.Node) -> Ending | None:
    """An AveragePool between integers."""
    source = values.held.get(node.inputs[0]) if node.inputs[0] is not None else None
    window = window_of(node, source) if source is not None and source.quantity is not None else None
    ending = ending_of(node.outputs[0])
    if source is None or source.quantity is None or window is None or ending.quantity is None:
        return None
    if window.dilation_height > 1 or window.dilation_width > 1 or node.attributes.get_int("ceil_mode", 0) == 1:
        return None
    window = replace(window, zero=source.quantity.zero, range=ending.range)
    counts = str(node.attributes.get_int("count_include_pad", 0))
    scale = source.quantity.step / ending.quantity.step
    result = Held(shape_of(ending.value), quantity=ending.quantity)
    read = values.tensor(source, Form.LAST)
    values.draft.call("integers_average_pool", ["&window", c_float(scale), counts], [read],
                      values.result(result, Form.LAST), declared=window.declared,
                      scratch_bytes=4 * source.channels, takes_scratch=True)  # fmt: skip
    values.held[ending.value] = result
    return ending


def mean(values: Values, node: ir.Node) -> Ending | None:
    """A ReduceMean of neighbouring axes, or a GlobalAveragePool, between integers."""
    source = values.held.get(node.inputs[0]) if node.inputs[0] is not None else None
    ending = ending_of(node.outputs[0])
    if source is None or source.quantity is None or ending.quantity is None:
        return None
    axes = _axes(node, len(source.shape))
    if not axes or axes != list(range(axes[0], axes[-1] + 1)):
        return None
    whole_planes = axes == list(range(2, len(source.shape))) and source.is_last
    first, last = axes[0], axes[-1] + 1
    sizes = (prod(source.shape[:first]), prod(source.shape[first:last]), prod(source.shape[last:]))
    if whole_planes:
        sizes = (source.outer, source.plane, source.channels)
    scale = np.float32(source.quantity.step / (ending.quantity.step * np.float32(sizes[1])))
    settings = [*map(str, sizes), str(source.quantity.zero), c_float(scale), ending.range.literal]
    result = Held(shape_of(ending.value), quantity=ending.quantity)
    read = values.tensor(source, Form.LAST if whole_planes else Form.FIRST)
    values.draft.call("integers_mean", settings, [read], values.result(result, Form.FIRST),
                      scratch_bytes=4 * sizes[2], takes_scratch=True)  # fmt: skip
    values.held[ending.value] = result
    return ending


def _axes(node: ir.Node, rank: int) -> list[int]:
    """The axes that are averaged, in order; none where they are not known."""
    if node.op_type == "GlobalAveragePool":
        return list(range(2, rank))
    value = node.inputs[1] if len(node.inputs) > 1 else None
    given = list(node.attributes.get_ints("axes", []))
    if value is not None:
        if value.const_value is None:
            return []
        given = [int(axis) for axis in value.const_value.numpy().reshape(-1)]
    if not given:
        return [] if node.attributes.get_int("noop_with_empty_axes", 0) else list(range(rank))
    return sorted(axis % rank for axis in given)
