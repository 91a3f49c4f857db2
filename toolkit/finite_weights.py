"""Weights that a training which diverged left behind: refused when a model is loaded, by name.

NaN is refused wherever it stands. Infinity is refused where it is multiplied (Conv, Gemm, MatMul, recurrent layers)
or was trained; an attention mask of -inf that is added, or chosen by Where, is as legal as ever.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from passes.dataset import Array
from targets.errors import InvalidInput
from targets.grouping import ANCHORS

if TYPE_CHECKING:
    import onnx
    from torch import nn

__all__ = ["check_graph_weights", "check_module_weights"]

_MULTIPLY = ANCHORS | {"GRU", "LSTM", "RNN"}


def check_graph_weights(model: onnx.ModelProto, what: str) -> None:
    """Refuse an ONNX model whose constants hold NaN, or infinity where it is multiplied.

    Raises:
        InvalidInput: with the name of the tensor.
    """
    graphs = list(_graphs(model.graph))
    multiplied = {name for graph in graphs for node in graph.node if node.op_type in _MULTIPLY for name in node.input}
    for graph in graphs:
        for name, tensor in _constants(graph):
            if (values := _floats(tensor)) is not None:
                _check(values, name, what, infinity=name in multiplied)


def check_module_weights(model: nn.Module, what: str) -> None:
    """Refuse a module with NaN in its state, or infinity in a parameter.

    Raises:
        InvalidInput: with the name of the tensor.
    """
    for infinity, tensors in ((True, model.named_parameters()), (False, model.named_buffers())):
        for name, tensor in tensors:
            if tensor.is_floating_point() and tensor.numel() and not tensor.is_meta:
                plain = tensor.detach() if tensor.element_size() > 1 else tensor.detach().float()
                low, high = (float(v) for v in plain.aminmax())
                _check(np.array([low, high]), name, what, infinity=infinity)


def _graphs(graph: Any) -> Iterator[Any]:
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node or inner.initializer:
                    yield from _graphs(inner)


def _constants(graph: Any) -> Iterator[tuple[str, Any]]:
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield node.output[0], attribute.t


def _floats(tensor: Any) -> Array | None:
    """The values of a floating tensor that has any."""
    from onnx import TensorProto, numpy_helper

    native = {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE}
    if tensor.data_type not in native | {TensorProto.BFLOAT16}:
        return None
    values = numpy_helper.to_array(tensor)
    if not values.size:
        return None
    return values if tensor.data_type in native else values.astype(np.float32)


def _check(values: Array, name: str, what: str, *, infinity: bool) -> None:
    low, high = values.min(), values.max()  # NaN comes out of both
    found = "NaN" if np.isnan(low) else "infinity" if infinity and np.isinf([low, high]).any() else ""
    if found:
        raise InvalidInput(
            f"weight {name!r} of {what} holds {found}",
            hint="the training diverged, or the file is damaged: load a good checkpoint and export it again",
        )
