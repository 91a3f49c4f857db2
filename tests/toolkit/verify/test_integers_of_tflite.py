"""What is written as .tflite: LiteRT's reference kernels and XNNPACK give our integers, bit for bit.

onnxruntime's answer is a step of the result's scale away at most, operator by operator.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from hypothesis import given, settings
from hypothesis import strategies as st

import toolkit
from passes.dataset import Array, Sample
from passes.onnxruntime import Session
from passes.program import Program, onnx_program
from passes.quiet import silent_output
from passes.signature import Signature, TensorSpec
from targets.target import load_target
from tests.toolkit.verify.quantized_operators import CASES, Case, made
from toolkit.backends.litert.lowering import Edges
from toolkit.backends.litert.tflite import drafted, tflite_bytes
from toolkit.backends.litert.writing import SIGNATURE_KEY
from toolkit.bundle.bundle import Bundle
from toolkit.models import digits
from toolkit.verify.integers import NUMERICS, compare_numerics
from toolkit.verify.integers.fixed_point import multiplied, multiplied_once, multiplier
from toolkit.verify.integers.lite_device import LiteDevice

STACK = load_target("raspberry_pi_4").stack("tflite-int8")
KERNELS = {"tflite": OpResolverType.BUILTIN_REF, "xnnpack-x86": OpResolverType.BUILTIN}

_LEFT_OUT = {"Div", "PRelu"}
"""Division by zero gives infinities, which LiteRT turns into integers as C leaves undefined; slopes that vary have no
form in a .tflite."""

WRITTEN = (
    *(case for case in CASES if case.op not in _LEFT_OUT),
    Case("AveragePool", [(1, 6, 9, 9)], attributes={"kernel_shape": [3, 3], "strides": [2, 2]}, same_scale=True),
)


def program_of(model: bytes, inputs: Sample) -> Program:
    proto = onnx.shape_inference.infer_shapes(onnx.load_from_string(model))
    result = proto.graph.output[0].type.tensor_type
    shape = tuple(d.dim_value for d in result.shape.dim)
    kind = onnx.helper.tensor_dtype_to_np_dtype(result.elem_type).name
    specs = tuple(TensorSpec(name, value.dtype.name, value.shape) for name, value in inputs.items())
    signature = Signature(specs, (TensorSpec(proto.graph.output[0].name, kind, shape),))
    return onnx_program("one", onnx_ir.from_proto(proto), signature, inputs)


def litert(content: bytes, numerics: str, *, all_tensors: bool = False) -> Any:
    with silent_output(2):
        interpreter = Interpreter(
            model_content=content, num_threads=1, experimental_op_resolver_type=KERNELS[numerics],
            experimental_preserve_all_tensors=all_tensors,
        )  # fmt: skip
        interpreter.allocate_tensors()
    return interpreter


def agrees(case: Case, seed: int, *, per_channel: bool = True) -> None:
    model, inputs = made(case, seed, np.int8, per_channel=per_channel, ties=seed % 2 == 0)
    program = program_of(model, inputs)
    content = tflite_bytes(program, STACK, Edges())
    here = Session(model, optimize=False)(inputs)["y"].astype(np.int32)
    for numerics in KERNELS:
        want = litert(content, numerics).get_signature_runner(SIGNATURE_KEY)(**inputs)["y"]
        run = LiteDevice(program, STACK, Edges(), NUMERICS[numerics])(inputs)
        np.testing.assert_array_equal(run.outputs["y"], want, err_msg=numerics)
        assert np.abs(want - here).max() <= 1


@pytest.mark.parametrize("case", WRITTEN, ids=str)
def test_an_operator_alone(case: Case) -> None:
    for seed in range(2):
        agrees(case, seed, per_channel=seed == 0)


SIZES = st.integers(1, 9)


@pytest.mark.slow
@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.sampled_from(["Add", "Mul", "Sub", "Concat"]), SIZES, SIZES, st.integers(0, 2**32))
def test_any_two_operands(op: str, rows: int, columns: int, seed: int) -> None:
    agrees(Case(op, [(rows, columns)] * 2, attributes={"axis": 1} if op == "Concat" else {}), seed)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(SIZES, SIZES, st.integers(1, 3), st.integers(1, 2), st.booleans(), st.integers(0, 2**32), st.booleans())
def test_any_convolution(
    inputs: int, outputs: int, kernel: int, stride: int, depthwise: bool, seed: int, per_channel: bool
) -> None:
    weights = (inputs, 1, kernel, kernel) if depthwise else (outputs, inputs, kernel, kernel)
    attributes = {"group": inputs if depthwise else 1, "strides": [stride] * 2, "pads": [kernel // 2] * 4}
    agrees(Case("Conv", [(1, inputs, 7, 6)], weights, weights[0], attributes), seed, per_channel=per_channel)


@pytest.mark.slow
@settings(max_examples=25, deadline=None, derandomize=True)
@given(SIZES, st.integers(2, 9), st.integers(2, 9), st.integers(0, 2**32))
def test_any_average(channels: int, height: int, width: int, seed: int) -> None:
    agrees(Case("GlobalAveragePool", [(1, channels, height, width)]), seed)


@given(st.integers(-(2**31), 2**31 - 1), st.floats(2.0**-20, 0.999))
def test_fixed_point_is_the_product_to_a_step(value: int, real: float) -> None:
    """Both roundings of 31 bits stay within a step of the real product."""
    for multiply in (multiplied, multiplied_once):
        assert (
            abs(float(multiply(np.array([value]), multiplier(real))[0]) - value * real) <= 1.0 + abs(value) * 2.0**-30
        )


# ---- networks


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return toolkit.compile(target="coral_tpu", output=tmp_path_factory.mktemp("digits") / "bundle")


@pytest.mark.slow
@pytest.mark.parametrize("edges", [Edges(), Edges(integers=True, channels_last=True)])
def test_every_integer_of_the_digits_network(bundle: Bundle, edges: Edges) -> None:
    """Of the reference kernels LiteRT shows what lies between operators; XNNPACK keeps that to itself."""
    samples = list(digits.validation().take(8))
    program = program_of((bundle.path / "model.onnx").read_bytes(), samples[0])
    content, draft = drafted(program, STACK, edges)
    orders = {name: tensor.shape for name, tensor in draft.inputs.items()}
    compared = 0
    for numerics in KERNELS:
        interpreter = litert(content, numerics, all_tensors=numerics == "tflite")
        runner = interpreter.get_signature_runner(SIGNATURE_KEY)
        device = LiteDevice(program, STACK, edges, NUMERICS[numerics])
        for sample in samples:
            run = device(sample)
            answers = runner(**{name: device.given(name, sample[name]).reshape(orders[name]) for name in sample})
            for name, value in answers.items():
                np.testing.assert_array_equal(device.taken(name, value), run.outputs[name])
            if numerics == "tflite":
                compared += _between(interpreter, run.integers)
    assert compared > 20_000


def _between(interpreter: Any, integers: dict[str, Array]) -> int:
    compared = 0
    for detail in interpreter.get_tensor_details():
        mine = integers.get(detail["name"])
        if mine is not None and detail["dtype"] == np.int8 and mine.shape == tuple(detail["shape"]):
            np.testing.assert_array_equal(interpreter.get_tensor(detail["index"]), mine, err_msg=detail["name"])
            compared += mine.size
    return compared


@pytest.mark.slow
def test_a_bundle_for_the_edge_tpu_is_compared_with_what_its_compiler_starts_from(bundle: Bundle) -> None:
    compared = compare_numerics(bundle, NUMERICS["tflite"], digits.validation().take(16))
    assert compared.samples == 16
    assert compared.agrees
    assert max(layer.largest for layer in compared.layers) <= 2
    assert "chip" in compared.to_json()["checked_against"]
    same = compare_numerics(bundle, NUMERICS["xnnpack-x86"], digits.validation().take(4))
    assert same.first is None
    assert same.agrees
