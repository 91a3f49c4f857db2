"""The numerics of this machine's processor against onnxruntime here, bit for bit: operators, and whole networks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import toolkit
from passes.dataset import Dataset
from passes.onnxruntime import Session
from targets.errors import InvalidInput
from tests.toolkit.verify.quantized_operators import CASES, Case, made
from toolkit.bundle.bundle import Bundle
from toolkit.models import digits
from toolkit.verify.integers import NUMERICS, Numerics, compare_numerics, interpreter
from toolkit.verify.integers.arithmetic import fused_multiply_add
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


@settings(max_examples=80, deadline=None, derandomize=True)
@given(convolutions(), st.integers(0, 2**32), st.booleans())
def test_any_convolution(case: Case, seed: int, per_channel: bool) -> None:
    agrees(case, seed, np.uint8, per_channel=per_channel)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.sampled_from(["Add", "Mul", "Concat"]), SIZES, SIZES, st.integers(0, 2**32), st.booleans())
def test_any_two_operands(op: str, rows: int, columns: int, seed: int, signed: bool) -> None:
    attributes = {"axis": 1} if op == "Concat" else {}
    agrees(Case(op, [(rows, columns)] * 2, attributes=attributes), seed, np.int8 if signed else np.uint8)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(SIZES, st.integers(1, 70), SIZES, st.integers(0, 2**32), st.booleans())
def test_any_product(rows: int, inner: int, columns: int, seed: int, signed: bool) -> None:
    agrees(Case("Gemm", [(rows, inner)], (inner, columns), columns), seed, np.int8 if signed else np.uint8)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 5), SIZES, SIZES, st.integers(0, 2**32), st.booleans())
def test_any_average(channels: int, height: int, width: int, seed: int, signed: bool) -> None:
    dtype = np.int8 if signed else np.uint8
    agrees(Case("GlobalAveragePool", [(2, channels, height, width)]), seed, dtype)
    agrees(Case("ReduceMean", [(2, channels, height, width)], axes=(2, 3)), seed, dtype)


@settings(max_examples=200, deadline=None, derandomize=True)
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


def test_the_comparison_with_itself_finds_nothing(bundle: Bundle) -> None:
    made = compare_numerics(bundle, here(), images())
    assert made.samples == 16
    assert made.agrees
    assert made.first is None
    assert sum(layer.values for layer in made.layers) > 50_000


def test_the_command_line(bundle: Bundle) -> None:
    words = [sys.executable, "-m", "toolkit.cli.main", "verify", str(bundle.path), "--numerics"]
    told = subprocess.run([*words, here().name, "--json"], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    document = json.loads(told.stdout)
    assert document["samples"] == 4
    assert document["flips"] == []
    unknown = subprocess.run([*words, "avx3"], capture_output=True, text=True, check=False)
    assert unknown.returncode == 2
    assert "avx2" in unknown.stderr


def test_a_network_of_floats_is_refused(tmp_path: Path) -> None:
    floats = toolkit.compile(target="desktop_cpu", stack="onnxruntime-fp32", output=tmp_path / "bundle")
    with pytest.raises(InvalidInput, match="holds no integers"):
        compare_numerics(floats, NUMERICS["a72"])
