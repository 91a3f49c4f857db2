"""How often the branches of a graph are taken, counted on samples and noted where the cost model looks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from passes.dataset import Dataset
from passes.onnxruntime import Session
from passes.quiet import quiet_libraries
from targets.control_flow import SHARE_KEY

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["has_branches", "note_branch_shares"]

_SAMPLES = 64


def has_branches(graph: ir.Graph) -> bool:
    """Whether an If stands in the graph itself."""
    return bool(_choices(graph))


def note_branch_shares(model: ir.Model, data: Dataset) -> None:
    """Write into each If of `model` the share of up to 64 samples that take its `then_branch`, in place.

    Those inside a branch or a loop are left out: whether they are reached at all is another count.
    """
    choices = _choices(model.graph)
    if not choices:
        return
    taken = _conditions(model)
    rows = [[bool(np.all(answer)) for answer in taken(sample).values()] for sample in data.take(_SAMPLES)]
    if not rows:
        return
    for node, share in zip(choices, np.mean(rows, axis=0), strict=True):
        node.metadata_props[SHARE_KEY] = f"{share:.6g} of {len(rows)} samples"


def _choices(graph: ir.Graph) -> list[ir.Node]:
    return [node for node in graph if node.op_type == "If" and not node.domain and node.inputs[0] is not None]


def _conditions(model: ir.Model) -> Session:
    """The graph with the conditions of its branches as its only outputs, in their order."""
    import onnx_ir

    copy = model.clone()
    choices = _choices(copy.graph)
    copy.graph.outputs.clear()
    for i, node in enumerate(choices):
        value = onnx_ir.Value(name=f"branch_condition_{i}", type=onnx_ir.TensorType(onnx_ir.DataType.BOOL))
        copy.graph.append(onnx_ir.Node("", "Identity", [node.inputs[0]], outputs=[value]))
        copy.graph.outputs.append(value)
    with quiet_libraries():
        return Session(onnx_ir.to_proto(copy).SerializeToString())
