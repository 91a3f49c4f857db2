"""Class and multiply-accumulates of one ONNX operator. The only such table in the repository."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["CLASSES", "MAC_CLASSES", "NOTHING", "VIEWS", "Product", "operator_class", "product"]

MAC_CLASSES = ("conv3x3", "conv", "pointwise", "depthwise", "matmul", "recurrent")
CLASSES = (*MAC_CLASSES, "pool", "elementwise", "copy", "unknown")

VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout"})
"""Operators that give the same bytes another shape: no runtime moves data for them."""

_POOLS = frozenset(
    "AveragePool GlobalAveragePool GlobalLpPool GlobalMaxPool LpPool MaxPool MaxRoiPool ReduceL1 ReduceL2 ReduceLogSum "
    "ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare ArgMax ArgMin RoiAlign "
    "TopK".split()
)
_COPIES = frozenset(
    "BitCast Cast CastLike CenterCropPad Col2Im Compress Concat ConstantOfShape DepthToSpace Expand EyeLike Gather "
    "GatherElements GatherND MaxUnpool NonZero OneHot Pad Range Resize ReverseSequence Scatter ScatterElements "
    "ScatterND Slice SpaceToDepth Split TensorScatter Tile Transpose Unique Upsample".split()
)
_ELEMENTWISE = frozenset(
    "Abs Acos Acosh Add AffineGrid And Asin Asinh Atan Atanh BatchNormalization Bernoulli BitShift BitwiseAnd "
    "BitwiseNot BitwiseOr BitwiseXor BlackmanWindow Ceil Celu Clip Cos Cosh CumProd CumSum DequantizeLinear Div "
    "DynamicQuantizeLinear Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual GridSample GroupNormalization "
    "HammingWindow HannWindow HardSigmoid HardSwish Hardmax InstanceNormalization IsInf IsNaN LRN "
    "LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization Max Mean MeanVarianceNormalization "
    "Min Mish Mod Mul Multinomial Neg NegativeLogLikelihoodLoss Not Or PRelu Pow QuantizeLinear RMSNormalization "
    "RandomNormal RandomNormalLike RandomUniform RandomUniformLike Reciprocal Relu RotaryEmbedding Round Selu Shrink "
    "Sigmoid Sign Sin Sinh Softmax SoftmaxCrossEntropyLoss Softplus Softsign Sqrt Sub Sum Swish Tan Tanh "
    "ThresholdedRelu Trilu Where Xor".split()
)
_MATMULS = frozenset({"Gemm", "MatMul", "MatMulInteger", "QLinearMatMul", "Attention", "Det", "DFT", "Einsum", "STFT"})
_CONVS = frozenset({"Conv", "ConvInteger", "QLinearConv", "ConvTranspose", "DeformConv"})
_GATE_COUNT = {"LSTM": 4, "GRU": 3, "RNN": 1}

Shape = Sequence[int]


@dataclass(frozen=True, slots=True)
class Product:
    """An operator's arithmetic as `groups` matrix products of (rows x depth) by (depth x columns).

    For a convolution, rows are positions of the output, depth is input channels times `taps` (elements of the filter),
    columns are output channels, all of one group. For a recurrent operator, each step and direction is a group. A pool
    has the same form, one channel to a group, though it adds or compares where the others multiply.
    """

    rows: int
    depth: int
    columns: int
    groups: int = 1
    taps: int = 1

    @property
    def elements(self) -> int:
        """Pairs that are multiplied and added; of a pool, elements that its windows read."""
        return self.groups * self.rows * self.depth * self.columns


NOTHING = Product(0, 0, 0)
"""The product of an operator that does no such arithmetic."""


def operator_class(node: ir.Node, weight: Shape | None) -> str:
    """The class that a cost model prices `node` by; `weight` is the shape of a convolution's filter."""
    op = node.op_type
    if op in _CONVS:
        return _conv_class(node, weight)
    if op == "Einsum" and _einsum_terms(node) is None:
        return "unknown"
    for known, name in ((_MATMULS, "matmul"), (_GATE_COUNT, "recurrent"), (_POOLS, "pool"), (_COPIES, "copy")):
        if op in known:
            return name
    return "elementwise" if op in _ELEMENTWISE else "unknown"


def product(node: ir.Node, inputs: Sequence[Shape | None], output: Shape | None) -> Product:
    """The arithmetic of `node`, and the windows of a pool; `NOTHING` for every other operator.

    Args:
        inputs: Shape of each input, None where unknown.
        output: Shape of the first output, None where unknown.
    """
    op = node.op_type
    position = 3 if op in ("QLinearConv", "QLinearMatMul") else 1  # scale and zero point come between
    first, second = inputs[0] if inputs else None, inputs[position] if len(inputs) > position else None
    if op in ("AveragePool", "MaxPool", "LpPool"):
        return _windows(node, output)
    if op in ("DFT", "STFT"):
        return _fourier(node, first, output)
    if first is None or op in _GATE_COUNT:
        return _recurrent(node, first, inputs[2] if len(inputs) > 2 else None) if op in _GATE_COUNT else NOTHING
    if op == "Det" and first:
        return Product(1, first[-1] ** 2 // 3, first[-1], groups=prod(first[:-2]))  # elimination: n³ / 3
    if output is None or second is None:
        return NOTHING
    if op in _CONVS:
        return _convolution(node, first, second, output)
    if op == "Attention":
        return _attention(node, first, second, inputs[2:5])
    if op == "Einsum":
        return _einsum(node, [s for s in inputs if s is not None])
    if op == "Gemm" and len(first) == len(output) == 2:
        return Product(output[0], first[0 if node.attributes.get_int("transA", 0) else -1], output[1])
    return _matmul(first, second, output) if op in _MATMULS and first and second else NOTHING


def _convolution(node: ir.Node, image: Shape, weight: Shape, output: Shape) -> Product:
    groups, taps = max(node.attributes.get_int("group", 1), 1), prod(weight[2:])
    if node.op_type == "ConvTranspose":  # each input position adds into every tap
        return Product(image[0] * prod(image[2:]), weight[0] // groups, weight[1] * taps, groups, taps)
    return Product(output[0] * prod(output[2:]), weight[1] * taps, weight[0] // groups, groups, taps)


def _windows(node: ir.Node, output: Shape | None) -> Product:
    if output is None:
        return NOTHING
    taps = prod(node.attributes.get_ints("kernel_shape", []))
    return Product(output[0] * prod(output[2:]), taps, 1, groups=output[1], taps=taps)


def _matmul(first: Shape, second: Shape, output: Shape) -> Product:
    columns = second[-1] if len(second) > 1 else 1
    if len(second) <= 2:  # one matrix for every batch
        return Product(prod(output) // max(columns, 1), first[-1], columns)
    rows = first[-2] if len(first) > 1 else 1
    return Product(rows, first[-1], columns, groups=prod(output) // max(rows * columns, 1))


def _attention(node: ir.Node, q: Shape, k: Shape, rest: Sequence[Shape | None]) -> Product:
    """q k' and the weighing of v; the width is the last axis, heads beside it or within it.

    `rest` are the shapes of v, of the mask and of the keys that were kept from before.
    """
    v = rest[0] if rest else None
    past = rest[2] if len(rest) > 2 else None
    if v is None or len(q) < 3:
        return NOTHING
    shared = 1
    if len(q) == 3:  # several heads of q may share one of v
        q_heads, kv_heads = (node.attributes.get_int(name, 1) for name in ("q_num_heads", "kv_num_heads"))
        shared = max(q_heads // max(kv_heads, 1), 1)
    return Product(q[-2], q[-1] + v[-1] * shared, k[-2] + (past[-2] if past else 0), groups=prod(q[:-2]))


def _recurrent(node: ir.Node, x: Shape | None, recurrence: Shape | None) -> Product:
    if x is None or len(x) != 3:
        return NOTHING
    hidden = node.attributes.get_int("hidden_size", recurrence[-1] if recurrence else 0)
    directions = 2 if node.attributes.get_string("direction", "forward") == "bidirectional" else 1
    steps, batch = (x[1], x[0]) if node.attributes.get_int("layout", 0) else (x[0], x[1])
    return Product(batch, x[2] + hidden, _GATE_COUNT[node.op_type] * hidden, groups=steps * directions)


def _einsum(node: ir.Node, inputs: Sequence[Shape]) -> Product:
    """Every combination of the indices is one multiply-accumulate: exact for two operands."""
    terms = _einsum_terms(node)
    if terms is None or len(inputs) != 2:
        return NOTHING
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, inputs, strict=True):
        sizes.update(zip(term, shape, strict=False))
    left, right = map(set, terms)
    result = set(_einsum_result(node))
    shared = left & right
    return Product(
        rows=prod(sizes[i] for i in left - right),
        depth=prod(sizes[i] for i in shared - result),
        columns=prod(sizes[i] for i in right - left),
        groups=prod(sizes[i] for i in shared & result),
    )


def _einsum_terms(node: ir.Node) -> list[str] | None:
    """Indices of the two operands; None where there are not two, or dots stand for some."""
    terms = node.attributes.get_string("equation", "").replace(" ", "").split("->")[0].split(",")
    return terms if len(terms) == 2 and not any("." in term for term in terms) else None


def _einsum_result(node: ir.Node) -> str:
    """Indices of the result; where the equation does not say, those that occur once."""
    equation = node.attributes.get_string("equation", "").replace(" ", "")
    if "->" in equation:
        return equation.split("->")[1]
    letters = re.sub("[^a-zA-Z]", "", equation)
    return "".join(sorted(c for c in set(letters) if letters.count(c) == 1))


def _fourier(node: ir.Node, signal: Shape | None, output: Shape | None) -> Product:
    """A fast transform of n points: 2 n log2 n multiply-accumulates (two for each of n/2 log2 n complex ones)."""
    if signal is None or output is None or len(output) < 3:
        return NOTHING
    axis = _fourier_axis(node, len(signal)) if node.op_type == "DFT" else 2
    points = max(output[axis], signal[axis] if node.op_type == "DFT" else 2 * (output[axis] - 1))
    return Product(prod(output[:-1]) // max(output[axis], 1), (max(points, 2) - 1).bit_length() * 2, points)


def _fourier_axis(node: ir.Node, rank: int) -> int:
    """From opset 20 on the axis is an input."""
    value = node.inputs[2] if len(node.inputs) > 2 else None
    stated = value.const_value if value is not None else None
    axis = (
        int(stated.numpy().reshape(()))
        if stated is not None
        else node.attributes.get_int("axis", 1 if value is None else -2)
    )
    return axis % rank


def _conv_class(node: ir.Node, weight: Shape | None) -> str:
    group = node.attributes.get_int("group", 1)
    if group > 1 and weight is not None and weight[1] == 1 and node.op_type != "ConvTranspose":
        return "depthwise"
    if group > 1 or weight is None or node.op_type in ("ConvTranspose", "DeformConv"):
        return "conv"
    kernel = tuple(weight[2:])
    strides = set(node.attributes.get_ints("strides", [1]))
    dilations = set(node.attributes.get_ints("dilations", [1]))
    if all(k == 1 for k in kernel):
        return "pointwise"
    return "conv3x3" if kernel == (3, 3) and strides == {1} and dilations == {1} else "conv"
