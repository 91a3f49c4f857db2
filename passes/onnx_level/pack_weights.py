"""Store integers in as few bits as hold them: the same answers out of a smaller file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from passes.context import Context
from passes.contract import Kind, Pass, PassFailed
from passes.program import Program

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["PackWeights"]

_CAST_BYTES = 32
"""What a Cast and the name of its result take in the file, about."""

_NARROWER = {"INT8": (("INT4", -8, 7),),
             "INT32": (("INT8", -128, 127), ("INT16", -32768, 32767))}  # fmt: skip
"""Types that a constant may be stored in, the narrowest first, with their bounds."""

_CONVOLUTIONS = ("Conv", "ConvTranspose")

_PLAIN = {"dilations": 1, "strides": 1, "pads": 0}
"""What a convolution does where its attribute is absent: the schema says so in words alone."""


@dataclass(frozen=True)
class PackWeights(Pass):
    """Integers in fewer bits, with a Cast that the runtime computes once at load; nothing that says what is so anyway.

    int8 weights of -8 to 7, as training to 4 bits leaves them, are stored as INT4, and int32 biases as int16 or int8
    where they fit. onnxruntime folds the Cast before it looks for integer operators, so it computes with the same
    kernels as without. Attributes that hold their default are left out, and equal constants are stored once.

    Source: ONNX, operators Cast-21, QuantizeLinear-21 and DequantizeLinear-21.
    """

    kind = Kind.EXACT
    needs = frozenset({"constants_folded"})
    gives = frozenset({"weights_packed"})
    prepares = True
    opset: ClassVar[int] = 21  # which brought INT4 and its Cast

    def requires(self, program: Program, ctx: Context) -> None:
        if program.opset < self.opset:
            raise PassFailed(
                f"4 bits need opset {self.opset}, the graph has {program.opset}",
                hint="choose a stack with a newer runtime",
            )

    def apply(self, program: Program, ctx: Context) -> Program:
        from onnx_ir.passes.common import DeduplicateInitializersPass, RemoveUnusedNodesPass

        model = program.clone()
        for node in model.graph.all_nodes():
            _leave_out_zero_point(node)
            _leave_out_defaults(node, program.opset)
        RemoveUnusedNodesPass()(model)
        DeduplicateInitializersPass()(model)
        for graph in model.graphs():
            for value, kind in list(_wide(graph)):
                _store_as(graph, value, kind)
        return program.with_model(model)


def _leave_out_zero_point(node: ir.Node) -> None:
    """The zeros that a convolution's weights and biases are counted from; where there are none, that is meant.

    Others stay: without them onnxruntime computes a Gemm, and a Relu in front of a rounding, in float.
    """
    if node.domain or node.op_type != "DequantizeLinear" or len(node.inputs) < 3 or node.inputs[0] is None:
        return
    zero = node.inputs[2].const_value if node.inputs[2] is not None else None
    is_weight = node.inputs[0].const_value is not None and not node.outputs[0].is_graph_output()
    convolves = all(use.node.op_type in _CONVOLUTIONS for use in node.outputs[0].uses())
    if is_weight and convolves and zero is not None and not np.any(zero.numpy()):
        node.resize_inputs(2)


def _leave_out_defaults(node: ir.Node, opset: int) -> None:
    """Attributes that say what the operator does without them."""
    import onnx.defs
    import onnx_ir

    if node.domain:
        return
    stated = onnx.defs.get_schema(node.op_type, opset, "").attributes
    plain = _PLAIN if node.op_type in _CONVOLUTIONS else {}
    for name, attribute in list(node.attributes.items()):
        default = stated[name].default_value if name in stated else None
        is_default = (
            default is not None
            and default.type
            and onnx_ir.serde.deserialize_attribute(default).value == attribute.value
        )
        if is_default or (name in plain and set(attribute.as_ints()) == {plain[name]}):
            node.attributes.pop(name)


def _wide(graph: ir.Graph) -> Iterator[tuple[ir.Value, str]]:
    """Integers that fit in a narrower type, with that type, where it saves more than its Cast takes."""
    import onnx_ir

    for value in graph.initializers.values():
        tensor = value.const_value
        if tensor is None or value.is_graph_output() or value.is_graph_input() or not _is_quantized(value):
            continue
        low, high = (int(bound(tensor.numpy(), initial=0)) for bound in (np.min, np.max))
        for name, least, most in _NARROWER.get(tensor.dtype.name, ()):
            saved = tensor.nbytes - tensor.size * onnx_ir.DataType[name].bitwidth / 8
            if least <= low and high <= most and saved > _CAST_BYTES:
                yield value, name
                break


def _is_quantized(value: ir.Value) -> bool:
    """Whether it is read as an integer that stands for a float: other integers are shapes and indices."""
    return any(use.node.op_type == "DequantizeLinear" and use.idx == 0 for use in value.uses())


def _store_as(graph: ir.Graph, value: ir.Value, kind: str) -> None:
    """A constant in the type `kind`, and a Cast to the type that it had."""
    import onnx_ir

    assert value.const_value is not None
    values, name = value.const_value.numpy(), str(value.name)
    stored = onnx_ir.tensor(values.astype(onnx_ir.DataType[kind].numpy()), onnx_ir.DataType[kind], f"{name}_stored")
    kind_of = onnx_ir.TensorType(stored.dtype)
    packed = onnx_ir.Value(name=stored.name, shape=value.shape, type=kind_of, const_value=stored)
    graph.register_initializer(packed)
    cast = onnx_ir.Node("", "Cast", [packed], [onnx_ir.AttrInt64("to", value.const_value.dtype)], name=f"{name}_widen")
    widened = cast.outputs[0]
    widened.shape, widened.type = value.shape, value.type
    graph.insert_before(graph[0], cast)
    onnx_ir.convenience.replace_all_uses_with(value, widened)
    graph.initializers.pop(name)
    widened.name = name
