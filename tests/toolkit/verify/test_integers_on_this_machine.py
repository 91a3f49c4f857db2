"""The numerics of this machine's processor against onnxruntime here, bit for bit: operators, and whole networks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import toolkit
from passes.dataset import Dataset
from passes.onnxruntime import Session
from targets.errors import InvalidInput
from tests.toolkit.verify.quantized_operators import CASES, Case, made
from toolkit.bundle.bundle import Bundle
from toolkit.models import digits
from toolkit.verify.integers import NUMERICS, Numerics, compare_numerics, interpreter
from toolkit.verify.integers.arithmetic import fused_multiply_add
from toolkit.verify.integers.comparison import flips_of
from toolkit.verify.integers.network import device_graph, watched


def here() -> Numerics:
    """What this processor computes with."""
    flags = Path("/proc/cpuinfo").read_text("utf-8")
    return NUMERICS["vnni" if "avx512_vnni" in flags or "avx_vnni" in flags else "avx2"]


def agrees(case: Case, seed: int, dtype: type[np.generic], *, per_channel: bool = True) -> None:
    model, inputs = made(case, seed, dtype, per_channel=per_channel, ties=seed % 2 == 0)
    want = watched(device_graph(model, here()))(inputs)["y"]
    np.testing.assert_array_equal(interpreter(model, here())(inputs).outputs["y"], want)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_operator_alone(case: Case, dtype: type[np.generic]) -> None:
    for seed in range(3):
        agrees(case, seed, dtype, per_channel=seed != 1)


SIZES = st.integers(1, 9)


@st.composite
def convolutions(draw: st.DrawFn) -> Case:
    groups, inputs, outputs = draw(st.sampled_from([(1, 1, 1), (1, 4, 16), (2, 3, 5), (16, 1, 1), (5, 1, 2)]))
    inputs, outputs = inputs * draw(st.integers(1, 3)), outputs * draw(st.integers(1, 2))
    kernel, stride, dilation = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 2))
    pads = [draw(st.integers(0, 2)) for _ in range(4)]
    reach = dilation * (kernel - 1) + 1
    sizes = [max(draw(SIZES), reach - before - after) for before, after in ((pads[0], pads[2]), (pads[1], pads[3]))]
    return Case(
        "Conv", [(1, groups * inputs, *sizes)], (groups * outputs, inputs, kernel, kernel), groups * outputs,
        {"group": groups, "strides": [stride] * 2, "dilations": [dilation] * 2, "pads": pads},
    )  # fmt: skip


@settings(max_examples=40, deadline=None, derandomize=True)
@given(convolutions(), st.integers(0, 2**32), st.booleans())
def test_any_convolution(case: Case, seed: int, per_channel: bool) -> None:
    agrees(case, seed, np.uint8, per_channel=per_channel)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.sampled_from(["Add", "Mul", "Concat"]), SIZES, SIZES, st.integers(0, 2**32), st.booleans())
def test_any_two_operands(op: str, rows: int, columns: int, seed: int, signed: bool) -> None:
    attributes = {"axis": 1} if op == "Concat" else {}
    agrees(Case(op, [(rows, columns)] * 2, attributes=attributes), seed, np.int8 if signed else np.uint8)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, derandomize=True)
@given(SIZES, st.integers(1, 70), SIZES, st.integers(0, 2**32), st.booleans())
def test_any_product(rows: int, inner: int, columns: int, seed: int, signed: bool) -> None:
    agrees(Case("Gemm", [(rows, inner)], (inner, columns), columns), seed, np.int8 if signed else np.uint8)


@pytest.mark.slow
@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(1, 5), SIZES, SIZES, st.integers(0, 2**32), st.booleans())
def test_any_average(channels: int, height: int, width: int, seed: int, signed: bool) -> None:
    dtype = np.int8 if signed else np.uint8
    agrees(Case("GlobalAveragePool", [(2, channels, height, width)]), seed, dtype)
    agrees(Case("ReduceMean", [(2, channels, height, width)], axes=(2, 3)), seed, dtype)


@settings(deadline=None, derandomize=True)
@given(st.integers(-(2**24), 2**24), st.integers(1, 2**24), st.integers(-(2**24), 2**24), st.integers(-60, 60))
def test_a_product_and_a_sum_are_rounded_once(a: int, b: int, c: int, exponent: int) -> None:
    """Against integers of Python, which round nothing until the end."""
    scale = 2.0**exponent
    want = np.float32(0)
    if total := (a * b << 60) + (c << (60 + exponent)):
        digits_ = total.bit_length() - 25  # one digit more than float32 holds, and whether anything lies below
        kept = total >> digits_ if digits_ > 0 else total << -digits_
        odd = digits_ > 0 and total & ((1 << digits_) - 1)
        want = np.float32(float((kept << 1) + bool(odd)) * 2.0 ** (digits_ - 61))
    assert fused_multiply_add(np.float32(a), np.float32(b), np.float32(c * scale)) == want


# ---- networks


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The built-in example in 8 bits."""
    return toolkit.compile(target="desktop_cpu", output=tmp_path_factory.mktemp("digits") / "bundle")


def images() -> Dataset:
    return digits.validation().take(16)


@pytest.mark.slow
def test_every_integer_of_the_digits_network(bundle: Bundle) -> None:
    model = (bundle.path / "model.onnx").read_bytes()
    device, kernels = interpreter(model, here()), watched(device_graph(model, here()))
    plain = Session(model)
    for sample in images():
        run, want = device(sample), kernels(sample)
        assert len(run.integers) > 6
        for name, values in run.integers.items():
            np.testing.assert_array_equal(values, want[name], err_msg=name)
        for name, answer in plain(sample).items():
            np.testing.assert_array_equal(run.outputs[name], answer)


@pytest.mark.slow
def test_the_comparison_with_itself_finds_nothing(bundle: Bundle) -> None:
    made = compare_numerics(bundle, here(), images())
    assert made.samples == 16
    assert made.agrees
    assert made.first is None
    assert sum(layer.values for layer in made.layers) > 50_000


@pytest.mark.slow
def test_the_command_line(bundle: Bundle) -> None:
    words = [sys.executable, "-c", "from toolkit.cli.main import run; run()", "verify", str(bundle.path), "--numerics"]
    told = subprocess.run([*words, here().name, "--json"], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    document = json.loads(told.stdout)
    assert document["samples"] == 4
    assert document["flips"] == []
    unknown = subprocess.run([*words, "avx3"], capture_output=True, text=True, check=False)
    assert unknown.returncode == 2
    assert "avx2" in unknown.stderr


def saturating(folder: Path) -> Bundle:
    """Two classes: the sums of the first leave 16 bits in pairs where its inputs are large."""
    constants = {
        "s": np.float32(1 / 255), "z": np.uint8(0), "w": np.array([[127] * 64, [96] * 64], np.int8),
        "ws": np.array([1 / 127, 1 / 120], np.float32), "wz": np.zeros(2, np.int8), "ys": np.float32(0.3),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["x.real"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["w.real"], axis=0),
        helper.make_node("Gemm", ["x.real", "w.real"], ["y.real"], transB=1),
        helper.make_node("QuantizeLinear", ["y.real", "ys", "z"], ["scores"]),
        helper.make_node("DequantizeLinear", ["scores", "ys", "z"], ["y"]),
    ]
    edges = [helper.make_tensor_value_info(name, 1, [1, n]) for name, n in (("x", 64), ("y", 2))]
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "two", edges[:1], edges[1:], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), folder / "two.onnx")
    np.save(folder / "x.npy", LARGE_AND_SMALL)
    return toolkit.compile(
        folder / "two.onnx", target="desktop_cpu", data=folder / "x.npy", output=folder / "bundle"
    )  # fmt: skip


LARGE_AND_SMALL = np.repeat(np.array([[1.0], [0.2]], np.float32), 3, 0) * np.ones((1, 64), np.float32)


@pytest.mark.slow
def test_answers_that_flip_are_listed(tmp_path: Path) -> None:
    bundle = saturating(tmp_path)
    other, mine = ("vnni", 1) if here().saturating_pairs else ("avx2", 0)
    made = compare_numerics(bundle, NUMERICS[other], Dataset.of_arrays("x", {"x": LARGE_AND_SMALL}))
    assert [(flip.sample, flip.here, flip.device) for flip in made.flips] == [(i, mine, 1 - mine) for i in range(3)]
    assert made.first is not None
    assert made.first.name == "scores"
    words = [sys.executable, "-c", "from toolkit.cli.main import run; run()", "verify", str(bundle.path)]
    words += ["--numerics", other, "--data", str(tmp_path / "x.npy")]
    told = subprocess.run(words, capture_output=True, text=True, check=False)
    assert told.returncode == 1
    assert "3 of 6 samples have another answer" in told.stdout
    without = subprocess.run(words[:-4] + words[-2:], capture_output=True, text=True, check=False)
    assert without.returncode == 2
    assert "--numerics" in without.stderr


def test_numbers_flip_where_they_move_by_more_than_a_hundredth() -> None:
    """Several outputs are no classes, however many columns they have."""
    here_ = {"boxes": np.array([[1.0, 100.0]]), "scores": np.array([[0.5, 0.4]])}
    there = {"boxes": np.array([[1.9, 100.0]]), "scores": np.array([[0.4, 0.5]])}
    assert [(flip.output, flip.here, flip.device) for flip in flips_of(3, here_, there)] == [("scores", 0.5, 0.4)]
    only = flips_of(3, {"scores": here_["scores"]}, {"scores": there["scores"]})
    assert [(flip.sample, flip.here, flip.device) for flip in only] == [(3, 0, 1)]


def test_a_network_that_branches_is_refused() -> None:
    truth = helper.make_tensor_value_info("t", 9, [])
    inner = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["i"])], "i", [], [helper.make_tensor_value_info("i", 1, [2])]
    )
    node = helper.make_node("If", ["t"], ["y"], then_branch=inner, else_branch=inner)
    edges = [helper.make_tensor_value_info(name, 1, [2]) for name in "xy"]
    graph = helper.make_graph([node], "branching", [truth, edges[0]], edges[1:])
    with pytest.raises(InvalidInput, match="a graph of its own"):
        interpreter(helper.make_model(graph).SerializeToString(), NUMERICS["a72"])


@pytest.mark.slow
def test_a_damaged_network_is_refused(bundle: Bundle) -> None:
    with pytest.raises(InvalidInput, match="damaged"):
        interpreter((bundle.path / "model.onnx").read_bytes()[:-100], NUMERICS["a72"])


@pytest.mark.slow
def test_a_network_of_floats_is_refused(tmp_path: Path) -> None:
    floats = toolkit.compile(target="desktop_cpu", stack="onnxruntime-fp32", output=tmp_path / "bundle")
    with pytest.raises(InvalidInput, match="holds no integers"):
        compare_numerics(floats, NUMERICS["a72"])
