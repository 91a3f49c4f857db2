"""Multiply-accumulates and classes against counts made by hand, and against torch's own counter."""

from collections.abc import Callable
from math import prod

import numpy as np
import onnx_ir
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from passes.structure import infer_shapes
from targets.graph import read_workload
from targets.operators import CLASSES, MAC_CLASSES, VIEWS, operator_class
from targets.workload import Workload

Read = Callable[..., Workload]


@pytest.mark.parametrize(
    ("attributes", "image", "weight", "output", "macs", "op_class"),
    [
        ("", (1, 3, 8, 8), (4, 3, 3, 3), (1, 4, 6, 6), 4 * 6 * 6 * 27, "conv3x3"),
        ("pads=[1,1,1,1]", (2, 3, 8, 8), (4, 3, 3, 3), (2, 4, 8, 8), 2 * 4 * 64 * 27, "conv3x3"),
        ("strides=[2,2]", (1, 3, 9, 9), (4, 3, 3, 3), (1, 4, 4, 4), 4 * 16 * 27, "conv"),
        ("dilations=[2,2]", (1, 3, 9, 9), (4, 3, 3, 3), (1, 4, 5, 5), 4 * 25 * 27, "conv"),
        ("strides=[1,1],dilations=[1,1]", (1, 3, 8, 8), (4, 3, 3, 3), (1, 4, 6, 6), 4 * 36 * 27, "conv3x3"),
        ("", (1, 3, 8, 8), (4, 3, 5, 5), (1, 4, 4, 4), 4 * 16 * 75, "conv"),
        ("", (1, 3, 8, 8), (4, 3, 1, 3), (1, 4, 8, 6), 4 * 48 * 9, "conv"),
        ("", (1, 3, 8, 8), (4, 3, 1, 1), (1, 4, 8, 8), 4 * 64 * 3, "pointwise"),
        ("strides=[2,2]", (1, 3, 8, 8), (4, 3, 1, 1), (1, 4, 4, 4), 4 * 16 * 3, "pointwise"),
        ("group=2", (1, 4, 8, 8), (6, 2, 3, 3), (1, 6, 6, 6), 6 * 36 * 18, "conv"),
        ("group=4", (1, 4, 8, 8), (4, 1, 3, 3), (1, 4, 6, 6), 4 * 36 * 9, "depthwise"),
        ("group=4", (1, 4, 8, 8), (8, 1, 3, 3), (1, 8, 6, 6), 8 * 36 * 9, "depthwise"),
        ("group=4,strides=[2,2]", (1, 4, 9, 9), (4, 1, 3, 3), (1, 4, 4, 4), 4 * 16 * 9, "depthwise"),
        ("", (1, 1, 8, 8), (4, 1, 3, 3), (1, 4, 6, 6), 4 * 36 * 9, "conv3x3"),
        ("group=2", (1, 4, 8, 8), (6, 2, 1, 1), (1, 6, 8, 8), 6 * 64 * 2, "conv"),
        ("", (1, 3, 8), (4, 3, 3), (1, 4, 6), 4 * 6 * 9, "conv"),
        ("", (1, 3, 8), (4, 3, 1), (1, 4, 8), 4 * 8 * 3, "pointwise"),
        ("", (1, 2, 4, 4, 4), (3, 2, 3, 3, 3), (1, 3, 2, 2, 2), 3 * 8 * 54, "conv"),
    ],
)
def test_convolutions(
    read: Read, attributes: str, image: tuple[int, ...], weight: tuple[int, ...], output: tuple[int, ...], macs: int,
    op_class: str,
) -> None:  # fmt: skip
    x, y = (",".join(map(str, shape)) for shape in (image, output))
    body = f"Conv<{attributes}>(x, w)" if attributes else "Conv(x, w)"
    work = read(f"g (float[{x}] x) => (float[{y}] y) {{ y = {body} }}", w=weight)
    (op,) = work.operators
    assert (op.macs, op.op_class, op.op_type, op.dtype) == (macs, op_class, "Conv", "float32")
    assert op.input_bytes == 4 * prod(image)
    assert op.output_bytes == 4 * prod(output)
    assert op.weight_bytes == 4 * prod(weight)
    assert (op.rank, op.static) == (len(output), True)


@pytest.mark.parametrize(
    ("attributes", "weight", "output", "macs"),
    [
        ("", (3, 5, 3, 3), (1, 5, 6, 6), 3 * 16 * 5 * 9),
        ("strides=[2,2]", (3, 5, 2, 2), (1, 5, 8, 8), 3 * 16 * 5 * 4),
        ("group=3", (3, 2, 3, 3), (1, 6, 6, 6), 3 * 16 * 2 * 9),
        ("strides=[2,2],pads=[1,1,1,1],output_padding=[1,1]", (3, 5, 3, 3), (1, 5, 8, 8), 3 * 16 * 5 * 9),
    ],
)
def test_transposed_convolutions_work_once_for_each_input_element(
    read: Read, attributes: str, weight: tuple[int, ...], output: tuple[int, ...], macs: int
) -> None:
    y = ",".join(map(str, output))
    body = f"ConvTranspose<{attributes}>(x, w)" if attributes else "ConvTranspose(x, w)"
    (op,) = read(f"g (float[1,3,4,4] x) => (float[{y}] y) {{ y = {body} }}", w=weight).operators
    assert (op.macs, op.op_class) == (macs, "conv")


@pytest.mark.parametrize(
    ("body", "first", "weight", "output", "macs"),
    [
        ("Gemm(x, w)", (5, 7), (7, 11), (5, 11), 385),
        ("Gemm<transA=1>(x, w)", (7, 5), (7, 11), (5, 11), 385),
        ("Gemm<transB=1>(x, w)", (5, 7), (11, 7), (5, 11), 385),
        ("Gemm<transA=1,transB=1>(x, w)", (7, 5), (11, 7), (5, 11), 385),
        ("MatMul(x, w)", (5, 7), (7, 11), (5, 11), 385),
        ("MatMul(x, w)", (2, 3, 5, 7), (7, 11), (2, 3, 5, 11), 6 * 385),
        ("MatMul(x, w)", (2, 3, 5, 7), (2, 3, 7, 11), (2, 3, 5, 11), 6 * 385),
        ("MatMul(x, w)", (1, 3, 5, 7), (2, 1, 7, 11), (2, 3, 5, 11), 6 * 385),
        ("MatMul(x, w)", (7,), (7, 11), (11,), 77),
        ("MatMul(x, w)", (5, 7), (7,), (5,), 35),
    ],
)
def test_matrix_products(
    read: Read, body: str, first: tuple[int, ...], weight: tuple[int, ...], output: tuple[int, ...], macs: int
) -> None:
    x, y = (",".join(map(str, shape)) for shape in (first, output))
    (op,) = read(f"g (float[{x}] x) => (float[{y}] y) {{ y = {body} }}", w=weight).operators
    assert (op.macs, op.op_class) == (macs, "matmul")


def test_a_product_of_two_activations_has_no_weights(read: Read) -> None:
    (op,) = read("g (float[2,5,7] a, float[2,7,3] b) => (float[2,5,3] y) { y = MatMul(a, b) }").operators
    assert (op.macs, op.weight_bytes, op.reads) == (2 * 5 * 7 * 3, 0, ("a", "b"))


@pytest.mark.parametrize(
    ("cell", "gates", "direction", "count"),
    [
        ("LSTM", 4, "forward", 1),
        ("LSTM", 4, "reverse", 1),
        ("LSTM", 4, "bidirectional", 2),
        ("GRU", 3, "forward", 1),
        ("GRU", 3, "bidirectional", 2),
        ("RNN", 1, "forward", 1),
    ],
)
def test_recurrent_cells(read: Read, cell: str, gates: int, direction: str, count: int) -> None:
    steps, batch, inputs, hidden = 5, 2, 3, 7
    (op,) = read(
        f"g (float[{steps},{batch},{inputs}] x) => (float[{steps},{count},{batch},{hidden}] y) "
        f'{{ y = {cell}<hidden_size={hidden}, direction="{direction}">(x, w, r) }}',
        w=(count, gates * hidden, inputs),
        r=(count, gates * hidden, hidden),
    ).operators
    assert op.op_class == "recurrent"
    assert op.macs == count * gates * steps * batch * hidden * (inputs + hidden)
    assert op.weight_bytes == 4 * count * gates * hidden * (inputs + hidden)
    assert op.static


def test_integer_convolutions_of_the_operator_format_count_like_the_float_one(read: Read) -> None:
    """QLinearConv's filter is its fourth input, behind scale and zero point of the first."""
    one, zero = np.float32(0.1), np.uint8(0)
    work = read(
        "g (uint8[1,4,8,8] x) => (uint8[1,4,6,6] y) { y = QLinearConv<group=4>(x, s, z, w, s, zw, s, z) }",
        s=one, z=zero, w=np.ones((4, 1, 3, 3), np.int8), zw=np.int8(0),
    )  # fmt: skip
    (op,) = work.operators
    assert (op.macs, op.op_class) == (4 * 36 * 9, "depthwise")


def test_integer_matrix_products_of_the_operator_format_count_like_the_float_one(read: Read) -> None:
    one, zero = np.float32(0.1), np.uint8(0)
    work = read(
        "g (uint8[5,7] x) => (uint8[5,11] y) { y = QLinearMatMul(x, s, z, w, s, zw, s, z) }",
        s=one, z=zero, w=np.ones((7, 11), np.int8), zw=np.int8(0),
    )  # fmt: skip
    (op,) = work.operators
    assert (op.macs, op.op_class) == (385, "matmul")


@pytest.mark.parametrize(
    ("body", "op_class"),
    [
        ("Relu(x)", "elementwise"),
        ("Softmax(x)", "elementwise"),
        ("MaxPool<kernel_shape=[2,2],strides=[2,2]>(x)", "pool"),
        ("GlobalAveragePool(x)", "pool"),
        ("Transpose<perm=[0,2,3,1]>(x)", "copy"),
        ("Concat<axis=1>(x, x)", "copy"),
        ("DepthToSpace<blocksize=2>(x)", "copy"),
        ("Hardmax(x)", "elementwise"),
    ],
)
def test_operators_without_arithmetic_are_priced_by_their_bytes(read: Read, body: str, op_class: str) -> None:
    from onnx import parser, shape_inference

    text = f'<ir_version: 8, opset_import: ["" : 18]> g (float[1,4,8,8] x) => (y) {{ y = {body} }}'
    shape = shape_inference.infer_shapes(parser.parse_model(text)).graph.output[0].type.tensor_type.shape
    dims = ",".join(str(d.dim_value) for d in shape.dim)
    (op,) = read(f"g (float[1,4,8,8] x) => (float[{dims}] y) {{ y = {body} }}").operators
    assert (op.op_class, op.macs) == (op_class, 0)
    assert op.input_bytes == 4 * 256
    assert op.output_bytes == 4 * prod(d.dim_value for d in shape.dim)
    assert op.op_class in CLASSES
    assert op.op_class not in MAC_CLASSES


@pytest.mark.parametrize(
    ("equation", "left", "right", "macs"),
    [
        ("ij,jk->ik", (3, 5), (5, 7), 3 * 5 * 7),
        ("bij,bjk->bik", (2, 3, 5), (2, 5, 7), 2 * 3 * 5 * 7),
        ("bhqd,bhkd->bhqk", (2, 4, 6, 8), (2, 4, 9, 8), 2 * 4 * 6 * 9 * 8),
        ("nchw,nchw->nhw", (1, 4, 8, 8), (1, 4, 8, 8), 256),
        ("ij,jk", (3, 5), (5, 7), 3 * 5 * 7),
    ],
)
def test_sums_over_indices_count_every_combination(
    read: Read, equation: str, left: tuple[int, ...], right: tuple[int, ...], macs: int
) -> None:
    y = np.einsum(equation, np.zeros(left, np.float32), np.zeros(right, np.float32)).shape
    x, w, out = (",".join(map(str, shape)) for shape in (left, right, y))
    body = f'Einsum<equation="{equation}">(x, w)'
    (op,) = read(f"g (float[{x}] x, float[{w}] w) => (float[{out}] y) {{ y = {body} }}").operators
    assert (op.macs, op.op_class) == (macs, "matmul")


def test_every_operator_of_opset_21_has_a_class() -> None:
    """Operators on sequences, text and control flow aside: no device here runs them by themselves."""
    from onnx import defs

    names = {s.name for s in defs.get_all_schemas_with_history() if s.domain == "" and s.since_version <= 21}
    apart = {name for name in names if any(part in name for part in ("Sequence", "Optional", "String", "Regex"))}
    apart |= {"Constant", "If", "Loop", "Scan", "ImageDecoder", "MelWeightMatrix", "TfIdfVectorizer"}
    apart |= {"NonMaxSuppression", "Shape", "Size", *VIEWS, "Einsum"}  # the equation of an Einsum says what it is
    unknown = {name for name in names - apart if operator_class(onnx_ir.node(name, []), None) == "unknown"}
    assert not unknown


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.point = nn.Conv2d(8, 12, 1)
        self.up = nn.ConvTranspose2d(12, 6, 2, stride=2)
        self.grouped = nn.Conv2d(6, 8, 3, dilation=2, groups=2)
        self.classify = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.point(self.depthwise(self.stem(x)).relu()).relu()
        y: Tensor = self.classify(self.grouped(self.up(x)).mean((2, 3)))
        return y


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        y: Tensor = self.out((q @ k.transpose(1, 2)).softmax(-1) @ v)
        return y


@pytest.mark.slow
@pytest.mark.parametrize(("network", "shape"), [(Mixed, (2, 3, 16, 16)), (Attention, (2, 9, 16))])
def test_exported_networks_agree_with_torchs_counter(network: type[nn.Module], shape: tuple[int, ...]) -> None:
    module, example = network().eval(), torch.zeros(shape)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(example)
    program = torch.onnx.export(module, (example,), dynamo=True, opset_version=18, verbose=False)
    assert program is not None
    model: onnx_ir.Model = program.model
    assert read_workload(infer_shapes(model)).macs * 2 == counter.get_total_flops()


@pytest.mark.parametrize(
    ("q", "k", "v", "heads", "flop"),
    [
        ((2, 4, 9, 16), (2, 4, 7, 16), (2, 4, 7, 8), "", 2 * 2 * 4 * 9 * 7 * (16 + 8)),
        ((2, 9, 64), (2, 7, 64), (2, 7, 32), "q_num_heads=4,kv_num_heads=4", 2 * 2 * 4 * 9 * 7 * (16 + 8)),
    ],
    ids=["heads as an axis", "heads in the width"],
)
def test_attention_counts_both_of_its_products(
    q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...], heads: str, flop: int
) -> None:
    """Two products of 2 m n k floating-point operations each, by hand."""
    from onnx import parser

    def described(name: str, shape: tuple[int, ...]) -> str:
        return f"float[{','.join(map(str, shape))}] {name}"

    out = (*q[:-1], v[-1])
    attributes = f"<{heads}>" if heads else ""
    text = f"""<ir_version: 10, opset_import: ["" : 23]>
        g ({described("q", q)}, {described("k", k)}, {described("v", v)}) => ({described("y", out)})
        {{ y = Attention{attributes}(q, k, v) }}"""
    (op,) = read_workload(infer_shapes(onnx_ir.from_proto(parser.parse_model(text)))).operators
    assert (op.op_class, 2 * op.macs) == ("matmul", flop)
