"""The layers of a quantized graph whose weights are int8, each beside the float layer that it was made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from passes.dataset import Array
from targets.grouping import ANCHORS

if TYPE_CHECKING:
    import onnx

__all__ = ["QuantizedLayer", "constant", "quantized_layers", "store", "subtract"]


@dataclass(frozen=True, eq=False, kw_only=True)
class QuantizedLayer:
    """A convolution or matrix product whose weights are DequantizeLinear of int8 constants with zero point 0.

    Args:
        node: As the quantized graph has it.
        input: The activation that it reads.
        output: Its result before any activation function; `float_output` is that of the float graph.
        weights: Name of the int8 constant; empty where something else reads it as well.
        scale: Of the weights: one element for each index of `axis`, or a single one.
        bias: Name of the int32 constant, and its scale; empty where there is none, or something else reads it.
    """

    node: onnx.NodeProto
    input: str
    output: str
    float_output: str
    weights: str
    scale: Array
    axis: int
    float_weights: Array
    bias: str = ""
    bias_scale: Array


def quantized_layers(model: onnx.ModelProto, floating: onnx.ModelProto) -> list[QuantizedLayer]:
    """In the order in which the quantized graph computes them.

    Layers are matched by the names of their nodes, those without one by the names of their weights.
    """
    from onnx import numpy_helper

    constants = {t.name: t for t in model.graph.initializer}
    floats = {t.name: t for t in floating.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    uses = Counter(name for node in model.graph.node for name in node.input)
    twins = _by_name(floating)
    found = []
    for node in model.graph.node:
        if node.op_type not in ANCHORS or node.domain or len(node.input) < 2:
            continue
        stored, shift = (_stored(node, i, makers, constants) for i in (1, 2))
        if stored is None:
            continue
        twin = twins.get(node.name or stored.input[0].removesuffix("_quantized"))
        if twin is None or twin.op_type != node.op_type or twin.input[1] not in floats:
            continue
        values, scale, axis = _parts(stored, constants)
        if values.dtype != np.int8 or _zero_point(stored, constants):
            continue
        found.append(
            QuantizedLayer(
                node=node,
                input=node.input[0],
                output=node.output[0],
                float_output=twin.output[0],
                weights=_owned(stored, uses),
                scale=scale,
                axis=axis % values.ndim,
                float_weights=numpy_helper.to_array(floats[twin.input[1]]),
                bias=_owned(shift, uses) if shift is not None else "",
                bias_scale=_parts(shift, constants)[1] if shift is not None else np.ones(1, np.float32),
            )
        )
    return found


def constant(model: onnx.ModelProto, name: str) -> Array:
    """The values of the constant called `name`."""
    from onnx import numpy_helper

    return numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == name))


def _by_name(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """Every node by its name; without one, by that of its second operand where no other node reads that."""
    reads = Counter(name for node in model.graph.node for name in node.input)
    named = {node.name: node for node in model.graph.node if node.name}
    unnamed = [node for node in model.graph.node if not node.name and len(node.input) > 1]
    return {**{node.input[1]: node for node in unnamed if reads[node.input[1]] == 1}, **named}


def store(model: onnx.ModelProto, name: str, values: Array) -> None:
    """Put `values` in the place of the constant called `name`."""
    from onnx import numpy_helper

    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), name))


def subtract(model: onnx.ModelProto, name: str, steps: Array) -> None:
    """Subtract `steps`, rounded, from the int32 constant called `name`, which stays within its range."""
    limits = np.iinfo(np.int32)
    store(model, name, np.clip(np.rint(constant(model, name) - steps), limits.min, limits.max).astype(np.int32))


def _stored(
    node: onnx.NodeProto, position: int, makers: Mapping[str, onnx.NodeProto], constants: Mapping[str, onnx.TensorProto]
) -> onnx.NodeProto | None:
    """What dequantizes the constants that an operand consists of."""
    maker = makers.get(node.input[position]) if len(node.input) > position else None
    if maker is None or maker.op_type != "DequantizeLinear" or any(name not in constants for name in maker.input):
        return None
    return maker


def _owned(stored: onnx.NodeProto, uses: Mapping[str, int]) -> str:
    return str(stored.input[0]) if uses[stored.input[0]] == uses[stored.output[0]] == 1 else ""


def _parts(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> tuple[Array, Array, int]:
    from onnx import helper, numpy_helper

    axis = next((int(helper.get_attribute_value(a)) for a in node.attribute if a.name == "axis"), 1)
    values, scale = (numpy_helper.to_array(constants[name]) for name in node.input[:2])
    return values, scale.reshape(-1), axis


def _zero_point(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    from onnx import numpy_helper

    return len(node.input) > 2 and bool(numpy_helper.to_array(constants[node.input[2]]).any())
