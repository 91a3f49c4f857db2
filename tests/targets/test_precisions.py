"""Which bytes shrink when a float32 network is stored narrower, and what becomes of networks that are not float32."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from targets.cost import estimate
from targets.graph import read_workload
from targets.latency import ARITHMETIC
from targets.stack import Stack
from targets.target import load_stack, load_target, target_names
from targets.workload import Workload

Read = Callable[..., Workload]

STACKS = [stack for name in target_names() for stack in load_target(name).stacks.values()]
CALIBRATED = [stack for stack in STACKS if stack.latency.calibrated]
each_calibrated = pytest.mark.parametrize("stack", CALIBRATED, ids=lambda s: s.id)

WEIGHT_ONLY = (
    """g (float[1,64,56,56] x) => (float[1,64,54,54] c) { wd = DequantizeLinear(w, s, z) c = Conv(x, wd, b) }"""
)
WEIGHTS = 64 * 64 * 9


def weight_only(read: Read) -> Workload:
    """A convolution in float whose weights are stored in 8 bits, and its bias in float32."""
    return read(
        WEIGHT_ONLY, w=np.zeros((64, 64, 3, 3), np.int8), s=np.float32(0.1), z=np.int8(0), b=np.zeros(64, np.float32)
    )


# ---- weights


@pytest.mark.parametrize(("dtype", "bias"), [("int8", 64), ("float16", 128), ("float32", 256)])
def test_weights_in_8_bits_stay_so_and_those_beside_them_shrink(read: Read, dtype: str, bias: int) -> None:
    work = weight_only(read)
    assert work.weight_bytes == WEIGHTS + 4 * 64
    assert work.at_precision(dtype).weight_bytes == WEIGHTS + bias


def test_a_table_of_integers_stays_as_wide_as_it_is(read: Read) -> None:
    text = "g (float[1,8,4] x, float[1,3,4] u) => (float[1,8,4] y) { y = ScatterND(x, at, u) }"
    work = read(text, at=np.array([[[0, 0], [0, 2], [0, 5]]]))
    assert work.at_precision("int8").weight_bytes == work.weight_bytes == 6 * 8


def test_half_precision_weights_are_no_float32(read: Read) -> None:
    text = "g (float[4,8] x) => (float[4,8] y) { f = Cast<to=1>(w) y = MatMul(x, f) }"
    halves = read("g (float16[4,8] x) => (float16[4,8] y) { y = MatMul(x, w) }", w=np.zeros((8, 8), np.float16))
    assert halves.at_precision("int8").weight_bytes == halves.weight_bytes == 128
    cast = read(text, w=np.zeros((8, 8), np.float16))
    assert cast.at_precision("float16").weight_bytes * 2 == cast.weight_bytes, "a constant that is cast is float32"


@pytest.mark.parametrize("stored", [np.float32, np.int8])
def test_shared_weights_are_stored_once_in_every_precision(read: Read, stored: type) -> None:
    text = "g (float[4,4] x) => (float[4,4] y) { wd = DequantizeLinear(w, s, z) a = MatMul(x, wd) y = MatMul(a, wd) }"
    if stored is np.float32:
        text = "g (float[4,4] x) => (float[4,4] y) { a = MatMul(x, w) y = MatMul(a, w) }"
        work = read(text, w=(4, 4))
    else:
        work = read(text, w=np.zeros((4, 4), np.int8), s=np.float32(1), z=np.int8(0))
    assert work.weight_bytes == 16 * np.dtype(stored).itemsize
    narrow = work.at_precision("int8")
    assert narrow.weight_bytes == 16
    assert narrow.at_precision("int8") == narrow
    assert narrow.at_precision("float16") == narrow


def test_a_table_of_which_a_part_is_read_shrinks_once(read: Read) -> None:
    work = read("g (int64[4] i) => (float[4,16] y) { y = Gather(w, i) }", w=(1000, 16))
    narrow = work.at_precision("int8")
    assert narrow.weight_bytes == 16_000
    assert narrow.at_precision("int8") == narrow


def test_the_weights_of_a_branch_that_is_not_taken_shrink_once(read: Read) -> None:
    work = read(
        """g (bool c, float[4,8] x) => (float[4,8] y) { y = If(c) <
            then_branch = t () => (float[4,8] p) { a = MatMul(x, v) p = MatMul(a, v) },
            else_branch = e () => (float[4,8] q) { q = Mul(x, k) } > }""",
        v=(8, 8), k=np.zeros(8, np.float32),
    )  # fmt: skip
    assert work.weight_bytes == 4 * (64 + 8)
    narrow = work.at_precision("int8")
    assert narrow.weight_bytes == 64 + 8
    assert narrow.at_precision("int8") == narrow


def test_a_float_network_with_weights_in_8_bits_costs_no_more_than_one_without(read: Read) -> None:
    """The stack makes the same integers of both."""
    plain = read("g (float[1,64,56,56] x) => (float[1,64,54,54] c) { c = Conv(x, w, b) }", w=(64, 64, 3, 3), b=(64,))
    narrow = weight_only(read)
    for stack in (s for s in STACKS if s.precision == "int8"):
        one, other = (estimate(work, stack) for work in (plain, narrow))
        assert one.weight_bytes == other.weight_bytes, stack.id
        assert one.latency_s == pytest.approx(other.latency_s), stack.id


# ---- networks of another precision


def convolution(read: Read, dtype: str, weights: np.ndarray[Any, Any]) -> Workload:
    return read(f"g ({dtype}[1,64,56,56] x) => ({dtype}[1,64,54,54] c) {{ c = Conv(x, w) }}", w=weights)


@pytest.mark.parametrize("stack", STACKS, ids=lambda s: s.id)
def test_double_precision_is_nobodys_own(read: Read, stack: Stack) -> None:
    work = convolution(read, "double", np.zeros((64, 64, 3, 3)))
    assert not work.is_float32
    assert work.at_precision("int8").operators[0].dtype == "float64"
    found = estimate(work, stack)
    assert found.operators[0].dtype == "float64"
    assert found.assumed_dtype == "", "nothing was priced in a precision that it does not have"
    assert found.extrapolated
    if not stack.rules:  # an accelerator leaves it to the host
        assert found.operators[0].extrapolated


@pytest.mark.parametrize("stack", [s for s in STACKS if not s.rules], ids=lambda s: s.id)
def test_bfloat16_is_marked_on_every_stack(stack: Stack) -> None:
    import onnx.parser
    import onnx_ir
    from onnx import TensorProto, helper

    proto = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["" : 22]> g (bfloat16[8,64] x) => (bfloat16[8,64] y) { y = MatMul(x, w) }'
    )
    proto.graph.initializer.append(helper.make_tensor("w", TensorProto.BFLOAT16, [64, 64], [0.0] * 4096))
    work = read_workload(onnx_ir.from_proto(proto))
    assert (work.operators[0].dtype, work.weight_bytes) == ("bfloat16", 2 * 4096)
    found = estimate(work, stack)
    assert found.operators[0].extrapolated
    assert (found.assumed_dtype, found.operators[0].dtype) == ("", "bfloat16")


def test_a_double_beside_floats_leaves_the_network_a_float_one(read: Read) -> None:
    work = read(
        """g (float[1,64,56,56] x) => (double[1,8,54,54] z) {
            y = Conv(x, w) d = Cast<to=11>(y) z = Conv(d, v) }""",
        w=(64, 64, 3, 3), v=np.zeros((8, 64, 1, 1)),
    )  # fmt: skip
    assert work.is_float32
    found = estimate(work, load_stack("raspberry_pi_4/tflite-int8"))
    marked = {op.dtype: op.extrapolated for op in found.operators if op.op_type == "Conv"}
    assert marked == {"int8": False, "float64": True}


# ---- a network without arithmetic


@each_calibrated
@pytest.mark.parametrize("size", [1, 64, 65536])
def test_a_network_without_arithmetic_is_marked_and_its_interval_finite(read: Read, stack: Stack, size: int) -> None:
    work = read(f"g (float[{size},{size}] x) => (float[{size},{size}] y) {{ y = Relu(x) }}")
    assert work.macs == 0
    found = estimate(work, stack)
    assert found.extrapolated
    low, high = found.latency_interval_s
    assert 0 < low < found.latency_s < high < 1000 * found.latency_s
    trusted = replace(stack.latency, seen_macs=(1, 1))
    inside = estimate(work, replace(stack, latency=trusted))
    assert high > inside.latency_interval_s[1], "wider than it would be within what was measured"


@each_calibrated
def test_no_arithmetic_is_as_far_outside_as_the_least(read: Read, stack: Stack) -> None:
    without = read("g (float[1,1] x) => (float[1,1] y) { y = Relu(x) }")
    least = read("g (float[1,1] x) => (float[1,1] y) { y = MatMul(x, w) }", w=(1, 1))
    assert (without.macs, least.macs) == (0, 1)
    ratios = [
        math.log(found.latency_interval_s[1] / found.latency_s)
        for found in (estimate(work, stack) for work in (without, least))
    ]
    assert ratios[0] == pytest.approx(ratios[1], rel=0.5)


def test_a_stack_that_was_measured_without_arithmetic_knows_such_networks(read: Read) -> None:
    stack = load_stack("raspberry_pi_4/tflite-fp32")
    seen = replace(stack.latency, seen_macs=(0, 10**9), seen_causes=ARITHMETIC)
    for text, weights in (
        ("g (float[8,8] x) => (float[8,8] y) { y = Relu(x) }", {}),
        ("g (float[8,8] x) => (float[8,8] y) { y = MatMul(x, w) }", {"w": (8, 8)}),
    ):
        assert not estimate(read(text, **weights), replace(stack, latency=seen)).extrapolated
