"""Weights alone in 8 or 4 bits: a smaller file and less to read, with arithmetic that stays in float."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from passes.context import Context
from passes.contract import Kind, Pass, PassFailed
from passes.dataset import Array
from passes.onnx_level.matching import only_user, rank, replace_node
from passes.onnx_level.quantizing import refuse_quantized
from passes.onnx_level.weights import channel_axis
from passes.program import Program
from targets.grouping import ANCHORS

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["QuantizeWeights"]

_NEEDS_OPSET = {8: 13, 4: 21}


@dataclass(frozen=True)
class QuantizeWeights(Pass):
    """A weight becomes DequantizeLinear(q, s), symmetric, so an element is off by at most s / 2.

    In 8 bits there is one scale for each output channel of Conv, ConvTranspose, Gemm and MatMul. In 4 bits there is
    one for each `block` inputs of each output of Gemm and MatMul; convolutions stay as they are. onnxruntime fuses the
    widening into MatMul as MatMulNBits, but not into every Gemm, where it would be done again at every run: a Gemm is
    first written as MatMul and Add, and a bias in front of a Relu is subtracted, since of an Add onnxruntime makes a
    Gemm again. It fuses neither a weight that several layers share nor a product straight in front of a Relu.

    Args:
        bits: 8, or 4 from opset 21 on.
        block: Inputs that share a scale in 4 bits; a power of two from 16.
        min_elements: Smaller weights stay in float.

    Source: Dettmers and Zettlemoyer 2023, arXiv:2212.09720 (blocks); Jacob et al. 2018, arXiv:1712.05877 (channels).
    """

    bits: Literal[8, 4] = 8
    block: int = 32
    min_elements: int = 4096
    kind = Kind.APPROXIMATE
    needs = frozenset({"constants_folded"})
    gives = frozenset({"weights_quantized"})

    def requires(self, program: Program, ctx: Context) -> None:
        refuse_quantized(program)
        if program.opset < _NEEDS_OPSET[self.bits]:
            raise PassFailed(
                f"{self.bits}-bit weights need opset {_NEEDS_OPSET[self.bits]}, the graph has {program.opset}",
                hint="choose a stack with a newer runtime, or 8 bits",
            )
        if self.block < 16 or self.block & (self.block - 1):
            raise PassFailed(f"a block of {self.block} is not a power of two from 16", hint="take 32")
        if not any(self._wanted(program.graph)):
            raise PassFailed(f"no weight has {self.min_elements} elements or more", hint="nothing to do")

    def apply(self, program: Program, ctx: Context) -> Program:
        from onnx_ir.passes.common import NameFixPass, RemoveUnusedNodesPass

        model = program.clone()
        for node in [n for n in model.graph if n.op_type == "Gemm" and _is_linear(n) and self._is_large(n.inputs[1])]:
            _spell_out(model.graph, node)
        for weight, axis in list(self._wanted(model.graph)):
            if self.bits == 4:
                _subtract_biases(model.graph, weight)
            self._replace(model.graph, weight, axis)
        RemoveUnusedNodesPass()(model)
        NameFixPass()(model)
        return program.with_model(model)

    def _wanted(self, graph: ir.Graph) -> Iterator[tuple[ir.Value, int]]:
        """Weights to be replaced, each once, with the axis that counts outputs."""
        seen: set[int] = set()
        for node in graph:
            kinds = ("MatMul", "Gemm") if self.bits == 4 else ANCHORS
            if node.op_type not in kinds or len(node.inputs) < 2 or (node.op_type == "Gemm" and not _is_linear(node)):
                continue
            weight = node.inputs[1]
            if weight is not None and id(weight) not in seen and self._is_large(weight):
                seen.add(id(weight))
                yield weight, channel_axis(node) % rank(weight)

    def _is_large(self, weight: ir.Value | None) -> bool:
        tensor = weight.const_value if weight is not None else None
        if weight is None or tensor is None or weight.is_graph_output():
            return False
        return tensor.size >= self.min_elements and tensor.dtype.name == "FLOAT" and len(tensor.shape) >= 2

    def _replace(self, graph: ir.Graph, weight: ir.Value, axis: int) -> None:
        import onnx_ir

        assert weight.const_value is not None
        values = weight.const_value.numpy()
        steps, scales, attributes = _in_blocks(values, self.block) if self.bits == 4 else _by_channel(values, axis)
        kind = onnx_ir.DataType.INT4 if self.bits == 4 else onnx_ir.DataType.INT8
        stored = _initializer(graph, f"{weight.name}_quantized", onnx_ir.tensor(steps, dtype=kind))
        scale = _initializer(graph, f"{weight.name}_scale", onnx_ir.tensor(scales))
        widen = onnx_ir.Node("", "DequantizeLinear", [stored, scale], attributes, name=f"{weight.name}_dequantize")
        widen.outputs[0].name = f"{weight.name}_dequantized"
        widen.outputs[0].shape, widen.outputs[0].type = weight.shape, weight.type
        graph.insert_before(graph[0], widen)
        onnx_ir.convenience.replace_all_uses_with(weight, widen.outputs[0])
        del graph.initializers[str(weight.name)]


def _is_linear(gemm: ir.Node) -> bool:
    """a W + b and nothing more, with constant weights."""
    plain = all(gemm.attributes.get_float(name, 1.0) == 1.0 for name in ("alpha", "beta"))
    weight = gemm.inputs[1]
    return plain and not gemm.attributes.get_int("transA", 0) and weight is not None and weight.const_value is not None


def _spell_out(graph: ir.Graph, gemm: ir.Node) -> None:
    """MatMul and Add in place of a linear Gemm."""
    import onnx_ir

    x, weight, result = gemm.inputs[0], gemm.inputs[1], gemm.outputs[0]
    assert weight is not None
    assert weight.const_value is not None
    if gemm.attributes.get_int("transB", 0):
        turned = onnx_ir.tensor(np.ascontiguousarray(weight.const_value.numpy().T))
        weight = graph.initializers.get(f"{weight.name}_t") or _initializer(graph, f"{weight.name}_t", turned)
    made = [onnx_ir.Node("", "MatMul", [x, weight], name=gemm.name)]
    if len(gemm.inputs) > 2 and gemm.inputs[2] is not None:
        made.append(onnx_ir.Node("", "Add", [made[0].outputs[0], gemm.inputs[2]], name=f"{gemm.name}_bias"))
    made[0].outputs[0].type, made[0].outputs[0].shape = result.type, result.shape
    replace_node(graph, gemm, made)


def _subtract_biases(graph: ir.Graph, weight: ir.Value) -> None:
    """Relu(x W + b) becomes Relu(x W - (-b)), which is the same to the last bit."""
    import onnx_ir

    for product, position in weight.uses():
        add = only_user(product.outputs[0]) if position == 1 else None
        relu = only_user(add.outputs[0]) if add is not None and add.op_type == "Add" else None
        if add is None or relu is None or relu.op_type != "Relu":
            continue
        bias = add.inputs[1] if add.inputs[0] is product.outputs[0] else add.inputs[0]
        if bias is None or bias.const_value is None:
            continue
        name = f"{bias.name}_negated"
        negated = graph.initializers.get(name) or _initializer(graph, name, onnx_ir.tensor(-bias.const_value.numpy()))
        replace_node(graph, add, [onnx_ir.Node("", "Sub", [product.outputs[0], negated], name=add.name)])


def _by_channel(values: Array, axis: int) -> tuple[Array, Array, list[Any]]:
    import onnx_ir

    others = tuple(i for i in range(values.ndim) if i != axis)
    scales = np.maximum(np.abs(values).max(axis=others) / 127, np.finfo(np.float32).tiny).astype(np.float32)
    shape = [-1 if i == axis else 1 for i in range(values.ndim)]
    return _rounded(values / scales.reshape(shape), 127), scales, [onnx_ir.AttrInt64("axis", axis)]


def _in_blocks(values: Array, block: int) -> tuple[Array, Array, list[Any]]:
    """A MatMul's weight (..., inputs, outputs) in blocks of inputs; the last block may be short."""
    import onnx_ir

    inputs = values.shape[-2]
    starts = np.arange(0, inputs, block)
    largest = np.maximum.reduceat(np.abs(values), starts, axis=-2)
    scales = np.maximum(largest / 7, np.finfo(np.float32).tiny).astype(np.float32)
    wide = np.repeat(scales, block, axis=-2)[..., :inputs, :]
    attributes = [onnx_ir.AttrInt64("axis", values.ndim - 2), onnx_ir.AttrInt64("block_size", block)]
    return _rounded(values / wide, 7), scales, attributes


def _rounded(values: Array, limit: int) -> Array:
    import ml_dtypes

    steps = np.clip(np.rint(values), -limit, limit)
    return steps.astype(np.int8 if limit == 127 else ml_dtypes.int4)


def _initializer(graph: ir.Graph, name: str, tensor: Any) -> ir.Value:
    import onnx_ir

    tensor.name = name
    value = onnx_ir.Value(name=name, shape=tensor.shape, type=onnx_ir.TensorType(tensor.dtype), const_value=tensor)
    graph.initializers[name] = value
    return value
