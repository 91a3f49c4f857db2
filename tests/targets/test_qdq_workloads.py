"""A quantized graph is the same work in one byte: QDQ pairs are contracted, conversions at the edge are priced."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir
import pytest
from onnx import numpy_helper

from passes.onnxruntime import import_onnxruntime
from passes.structure import infer_shapes
from targets.cost import estimate
from targets.graph import read_workload
from targets.target import load_stack
from targets.workload import Workload

FUSES = frozenset({"batch_norm", "relu"})
CONVERSIONS = ("QuantizeLinear", "DequantizeLinear")
NET = """<ir_version: 8, opset_import: ["" : 18]>
g (float[1,3,12,12] x) => (float[1,10] y) {
    [first] c1 = Conv<pads=[1,1,1,1]>(x, w1, b1)
    [relu1] r1 = Relu(c1)
    [middle] c2 = Conv<pads=[1,1,1,1], group=8>(r1, w2, b2)
    [relu2] r2 = Relu(c2)
    [plus] a = Add(r1, r2)
    [third] c3 = Conv<strides=[2,2]>(a, w3, b3)
    [pool] p = GlobalAveragePool(c3)
    [flat] f = Flatten(p)
    [last] y = Gemm<transB=1>(f, w4, b4)
}"""
SHAPES = {"w1": (8, 3, 3, 3), "b1": (8,), "w2": (8, 1, 3, 3), "b2": (8,), "w3": (16, 8, 3, 3), "b3": (16,),
          "w4": (10, 16), "b4": (10,)}  # fmt: skip


def float_model() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    model = onnx.parser.parse_model(NET)
    for name, shape in SHAPES.items():
        model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    return model


def quantized(folder: Path, activation: str, excluded: tuple[str, ...] = ()) -> Workload:
    import_onnxruntime()
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            rng = np.random.default_rng(1)
            self.rows: Iterator[dict[str, np.ndarray]] = iter(
                [{"x": rng.standard_normal((1, 3, 12, 12)).astype(np.float32)} for _ in range(3)]
            )

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.rows, None)

    path = folder / "q.onnx"
    quantize_static(
        float_model(), path, Reader(), quant_format=QuantFormat.QDQ, per_channel=True, weight_type=QuantType.QInt8,
        activation_type=QuantType.QUInt8 if activation == "uint8" else QuantType.QInt8, nodes_to_exclude=list(excluded),
    )  # fmt: skip
    return read_workload(infer_shapes(onnx_ir.from_proto(onnx.load(path))), fuses=FUSES)


def reference() -> Workload:
    return read_workload(infer_shapes(onnx_ir.from_proto(float_model())), fuses=FUSES)


def inner(work: Workload) -> list[tuple[str, str, int]]:
    """A Relu is not compared: the quantizer drops it where the zero point already cuts at zero."""
    return [(op.op_type, op.op_class, op.macs) for op in work.operators if op.op_type not in CONVERSIONS]


@pytest.mark.parametrize("activation", ["uint8", "int8"])
def test_the_operators_and_their_arithmetic_stay(tmp_path: Path, activation: str) -> None:
    work, whole = quantized(tmp_path, activation), reference()
    assert inner(work) == inner(whole)
    assert work.macs == whole.macs
    assert {op.dtype for op in work.operators if op.op_type not in CONVERSIONS} == {"int8"}
    assert not work.is_float32


@pytest.mark.parametrize("activation", ["uint8", "int8"])
def test_only_the_edges_convert(tmp_path: Path, activation: str) -> None:
    kinds = [op.op_type for op in quantized(tmp_path, activation).operators]
    assert kinds[0] == "QuantizeLinear"
    assert kinds[-1] == "DequantizeLinear"
    assert kinds.count("QuantizeLinear") == kinds.count("DequantizeLinear") == 1


@pytest.mark.parametrize("activation", ["uint8", "int8"])
def test_tensors_between_operators_take_one_byte(tmp_path: Path, activation: str) -> None:
    work, whole = quantized(tmp_path, activation), reference()
    small = {op.name: op for op in work.operators}
    for op in whole.operators:
        if op.name != "last":
            assert small[op.name].output_bytes * 4 == op.output_bytes
        if op.name != "first":
            assert small[op.name].input_bytes * 4 == op.input_bytes
    weights = {op.name: op.weight_bytes for op in work.operators}
    for name, weight, bias in (("first", 216, 8), ("middle", 72, 8), ("third", 1152, 16), ("last", 160, 10)):
        stored = weights[name] - weight - 4 * bias
        assert 0 <= stored <= 9 * 2 * bias, "int8 weights, int32 biases and at most a scale and zero point a channel"


@pytest.mark.parametrize("activation", ["uint8", "int8"])
def test_inputs_and_outputs_stay_float32(tmp_path: Path, activation: str) -> None:
    """The signature does not change, so the caller's buffers are four bytes wide."""
    work = quantized(tmp_path, activation)
    first, last = work.operators[0], work.operators[-1]
    assert work.tensor_bytes["x"] == 4 * 3 * 144
    assert (first.input_bytes, first.output_bytes) == (4 * 3 * 144, 3 * 144)
    assert (last.input_bytes, last.output_bytes) == (10, 40)
    assert sum(work.tensor_bytes[name] for name in work.outputs) == 40


@pytest.mark.parametrize("excluded", ["first", "middle", "third", "last"])
def test_an_excluded_node_stays_float32(tmp_path: Path, excluded: str) -> None:
    work = quantized(tmp_path, "int8", (excluded,))
    assert inner(work) == inner(reference())
    dtypes = {op.name: op.dtype for op in work.operators if op.op_class in ("conv3x3", "conv", "depthwise", "matmul")}
    assert dtypes == {name: "float32" if name == excluded else "int8" for name in ("first", "middle", "third", "last")}
    row = next(op for op in work.operators if op.name == excluded)
    floats = next(op for op in reference().operators if op.name == excluded)
    assert row.weight_bytes == floats.weight_bytes


def test_an_excluded_node_is_priced_by_the_float_stack(tmp_path: Path) -> None:
    stack = load_stack("raspberry_pi_4/tflite-int8")
    price = {}
    for excluded in ((), ("third",)):
        rows = estimate(quantized(tmp_path, "int8", excluded), stack).operators
        price[excluded] = {row.name: row.terms.get("convolution", 0.0) for row in rows}
    floats = load_stack(stack.float_stack).latency
    assert price["third",]["third"] == pytest.approx(16 * 25 * 72 * floats.costs["convolution"])
    assert price["third",]["third"] > price[()]["third"]


def test_weights_alone_in_8_bits_leave_float_arithmetic() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 18]> g (float[5,7] x) => (float[5,3] y) '
        "{ d = DequantizeLinear(w, s, z) y = MatMul(x, d) }"
    )
    for name, value in (("w", np.ones((7, 3), np.int8)), ("s", np.float32(0.1)), ("z", np.int8(0))):
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    (op,) = read_workload(infer_shapes(onnx_ir.from_proto(model))).operators
    assert (op.dtype, op.macs, op.weight_bytes) == ("float32", 105, 21)


def test_quantization_does_not_price_a_network_higher_where_integers_are_faster(tmp_path: Path) -> None:
    stack = load_stack("raspberry_pi_4/tflite-int8")
    small, whole = quantized(tmp_path, "int8"), reference()
    busy = {
        name: sum(row.latency_s - row.terms["launch"] for row in estimate(work, stack, as_is=True).operators)
        for name, work in (("int8", small), ("float32", whole))
    }
    assert busy["int8"] < busy["float32"]
