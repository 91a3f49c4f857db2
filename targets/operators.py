"""Class and multiply-accumulates of one ONNX operator. The only such table in the repository."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["CLASSES", "MAC_CLASSES", "VIEWS", "macs", "operator_class"]

MAC_CLASSES = ("conv3x3", "conv", "pointwise", "depthwise", "matmul", "recurrent")
CLASSES = (*MAC_CLASSES, "pool", "elementwise", "copy", "unknown")

VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"})
"""Operators that give the same bytes another shape: no runtime moves data for them."""

_POOLS = frozenset(
    "AveragePool GlobalAveragePool GlobalLpPool GlobalMaxPool LpPool MaxPool ReduceL1 ReduceL2 ReduceLogSum "
    "ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare ArgMax ArgMin TopK".split()
)
_COPIES = frozenset(
    "Cast CastLike Concat ConstantOfShape DepthToSpace Expand EyeLike Gather GatherElements GatherND NonZero OneHot "
    "Pad Range Resize ScatterElements ScatterND Slice SpaceToDepth Split Tile Transpose Upsample".split()
)
_ELEMENTWISE = frozenset(
    "Abs Acos Acosh Add And Asin Asinh Atan Atanh BatchNormalization BitShift BitwiseAnd BitwiseNot BitwiseOr "
    "BitwiseXor Ceil Celu Clip Cos Cosh CumSum DequantizeLinear Div DynamicQuantizeLinear Elu Equal Erf Exp Floor "
    "Gelu Greater GreaterOrEqual GroupNormalization HardSigmoid HardSwish InstanceNormalization IsInf IsNaN LRN "
    "LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization Max Mean Min Mish Mod Mul Neg "
    "Not Or PRelu Pow QuantizeLinear RMSNormalization Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh "
    "Softmax Softplus Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Trilu Where Xor".split()
)
_MATMULS = frozenset({"Gemm", "MatMul", "MatMulInteger", "QLinearMatMul"})
_CONVS = frozenset({"Conv", "ConvInteger", "QLinearConv", "ConvTranspose"})
_GATE_COUNT = {"LSTM": 4, "GRU": 3, "RNN": 1}

Shape = Sequence[int]


def operator_class(node: ir.Node, weight: Shape | None) -> str:
    """The class that a cost model prices `node` by; `weight` is the shape of a convolution's filter."""
    op = node.op_type
    if op in _CONVS:
        return _conv_class(node, weight)
    products = _MATMULS | {"Attention"}
    for known, name in ((products, "matmul"), (_GATE_COUNT, "recurrent"), (_POOLS, "pool"), (_COPIES, "copy")):
        if op in known:
            return name
    return "elementwise" if op in _ELEMENTWISE else "unknown"


def macs(node: ir.Node, inputs: Sequence[Shape | None], output: Shape | None) -> int:
    """Multiply-accumulates of `node`; 0 for operators that are priced by their bytes alone.

    Args:
        inputs: Shape of each input, None where unknown.
        output: Shape of the first output, None where unknown.
    """
    op = node.op_type
    position = 3 if op in ("QLinearConv", "QLinearMatMul") else 1  # scale and zero point come between
    first, second = inputs[0] if inputs else None, inputs[position] if len(inputs) > position else None
    if op in _GATE_COUNT and first is not None and len(first) == 3:
        hidden = node.attributes.get_int("hidden_size", 0)
        directions = 2 if node.attributes.get_string("direction", "forward") == "bidirectional" else 1
        return directions * _GATE_COUNT[op] * prod(first[:2]) * hidden * (first[2] + hidden)
    if output is None or first is None or second is None:
        return 0
    if op == "Attention":
        third = inputs[2] if len(inputs) > 2 else None
        return _attention_macs(first, second, third)
    if op == "ConvTranspose":
        return prod(first) * prod(second[1:])
    if op in _CONVS:
        return prod(output) * prod(second[1:])
    if op == "Gemm":
        return prod(output) * first[0 if node.attributes.get_int("transA", 0) else -1]
    if op in _MATMULS and first:
        return prod(output) * first[-1]
    return 0


def _attention_macs(q: Shape, k: Shape, v: Shape | None) -> int:
    """q k' and the weighing of v; the width is the last axis, heads beside it or within it."""
    if v is None or len(q) < 3:
        return 0
    return prod(q[:-1]) * k[-2] * (q[-1] + v[-1])


def _conv_class(node: ir.Node, weight: Shape | None) -> str:
    group = node.attributes.get_int("group", 1)
    if group > 1 and weight is not None and weight[1] == 1 and node.op_type != "ConvTranspose":
        return "depthwise"
    if group > 1 or weight is None or node.op_type == "ConvTranspose":
        return "conv"
    kernel = tuple(weight[2:])
    strides = set(node.attributes.get_ints("strides", [1]))
    dilations = set(node.attributes.get_ints("dilations", [1]))
    if all(k == 1 for k in kernel):
        return "pointwise"
    return "conv3x3" if kernel == (3, 3) and strides == {1} and dilations == {1} else "conv"
