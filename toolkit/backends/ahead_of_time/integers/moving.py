"""Operators that move integers: views of them, copies side by side; other orders are TVM's, on integers as well."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from toolkit.backends.ahead_of_time.integers.endings import Ending, wanted
from toolkit.backends.ahead_of_time.integers.values import Form, Held, Values, shape_of

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["join", "move", "view"]


def view(values: Values, node: ir.Node) -> Ending | None:
    """The same integers under another shape."""
    source = values.held.get(node.inputs[0]) if node.inputs[0] is not None else None
    if source is None or source.quantity is None:
        return None
    result = Held(shape_of(node.outputs[0]), quantity=source.quantity, viewed=source)
    values.held[node.outputs[0]] = source if source.shape == result.shape else result
    return Ending(node.outputs[0], source.quantity)


def move(values: Values, node: ir.Node) -> Ending | None:
    """Integers in another order, by TVM."""
    import onnx_ir as ir

    source = values.held.get(node.inputs[0]) if node.inputs[0] is not None else None
    if source is None or source.quantity is None or any(v is not None and v in values.held for v in node.inputs[1:]):
        return None
    proto = ir.to_proto(node)
    assert node.inputs[0] is not None
    proto.input[0] = values.in_island(node.inputs[0], Form.FIRST)
    for position, value in enumerate(node.inputs[1:], 1):
        if value is not None:
            proto.input[position] = values.in_island(value)
    for position, output in enumerate(node.outputs):
        proto.output[position] = f"{output.name} {Form.FIRST.value}"
        values.held[output] = Held(
            shape_of(output), quantity=source.quantity, inside={Form.FIRST: proto.output[position]}
        )
    values.draft.island.nodes.append(proto)
    return Ending(node.outputs[0], source.quantity)


def join(values: Values, node: ir.Node) -> Ending | None:
    """A Concat, part by part into its place; parts of other steps are brought to those of the result."""
    output = node.outputs[0]
    sources = [values.held.get(v) if v is not None else None for v in node.inputs]
    first = sources[0]
    if first is None or any(s is None or s.quantity is None for s in sources):
        return None
    common = {s.quantity for s in sources if s is not None}
    quantity = wanted(output) or (first.quantity if len(common) == 1 else None)
    if quantity is None:
        return None
    shape = shape_of(output)
    axis = node.attributes.get_int("axis", 0) % len(shape)
    result = Held(shape, quantity=quantity)
    form = Form.LAST if axis == 1 and not result.one_order and any(s.is_last for s in sources if s) else Form.FIRST
    last = form is Form.LAST
    rows = result.outer * result.plane if last else prod(shape[:axis])
    stride, offset = prod(shape) // rows, 0
    write = values.result(result, form)
    for source in sources:
        assert source is not None
        width = prod(source.shape) // rows
        read = values.tensor(values.requantized(source, quantity), form)
        settings = [str(n) for n in (rows, width, stride, offset)]
        values.draft.call("integers_copy_columns", settings, [read], write)
        offset += width
    values.held[output] = result
    return Ending(output, quantity)
