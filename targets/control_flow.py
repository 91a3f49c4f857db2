"""How often the bodies of an If, a Loop or a Scan run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from targets.onnx_values import bodies, shape_of

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["SHARE_KEY", "counted_on", "shares", "trips"]

SHARE_KEY = "toolkit.share"
"""Metadata of an If: the share of the samples counted that took its `then_branch`, as `0.25 of 64 samples`."""

_ENDLESS = 2**31
"""Turns from which on a Loop's count says nothing: exporters write the largest integer for `while`."""


def shares(node: ir.Node) -> list[float]:
    """How often each body of an If runs, in the order of its attributes; empty where nobody counted."""
    noted = node.metadata_props.get(SHARE_KEY, "")
    if node.op_type != "If" or not noted:
        return []
    then = float(noted.split()[0])
    return [then if name == "then_branch" else 1 - then for name, a in node.attributes.items() if bodies(a)]


def counted_on(graph: ir.Graph) -> str:
    """What the shares of branches were counted on; empty where none are stated."""
    noted = {node.metadata_props[SHARE_KEY] for node in graph if SHARE_KEY in node.metadata_props}
    samples = sorted({note.partition(" of ")[2] for note in noted})
    return f"branches by how often {', '.join(samples)} took them" if samples else ""


def trips(node: ir.Node) -> int | None:
    """How often the body of a Loop or Scan runs; None where only the data say."""
    if node.op_type == "Loop":
        count = node.inputs[0] if node.inputs else None
        known = count.const_value if count is not None else None
        times = int(known.numpy().reshape(())) if known is not None else _ENDLESS
        return max(times, 0) if times < _ENDLESS and not _stops_early(node) else None
    scanned = node.inputs[len(node.inputs) - node.attributes.get_int("num_scan_inputs", 1) :]
    axis = node.attributes.get_ints("scan_input_axes", [0])[0]
    shape = shape_of(scanned[0]) if scanned and scanned[0] is not None else None
    return shape[axis] if shape else None


def _stops_early(loop: ir.Node) -> bool:
    """Whether a condition that the body computes may end the loop."""
    body = next((b for attribute in loop.attributes.values() for b in bodies(attribute)), None)
    if body is None or not body.outputs or len(loop.inputs) < 2 or loop.inputs[1] is None:
        return False
    condition = body.outputs[0]
    producer = condition.producer()
    return producer is not None and producer.op_type != "Identity" and condition.const_value is None
