"""What a .tflite is made of, and how a bundle holds it: schema, order of axes, edges, refusals, who compiles it on."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from ai_edge_litert import schema_py_generated
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import toolkit
from passes.onnxruntime import Session
from passes.program import Program
from targets.errors import InvalidInput, MissingDependency
from targets.target import load_target, target_names
from toolkit.backends import BACKENDS
from toolkit.backends.litert import runtime
from toolkit.backends.litert.edgetpu import COMPILER, parse_log
from toolkit.backends.litert.edgetpu_list import forecast, left_to_host
from toolkit.backends.litert.layout import regrouped
from toolkit.backends.litert.lowering import Edges, lowered
from toolkit.backends.litert.operators import OPERATORS
from toolkit.backends.litert.reading import readable
from toolkit.backends.litert.runtime import Interpreter
from toolkit.backends.litert.schema import OPERATORS as CODES
from toolkit.backends.litert.schema import OPTIONS, PADDINGS, TABLES, TYPES
from toolkit.backends.litert.tensors import Draft, Operator, Quantization, Tensor
from toolkit.backends.litert.tflite import tflite_bytes
from toolkit.backends.litert.versions import version_of
from toolkit.cli.main import main
from toolkit.driver import export_program
from toolkit.rng import generator
from toolkit.verify.golden import verify_bundle

pytestmark = pytest.mark.slow

PI = load_target("raspberry_pi_4").stack("tflite-fp32")


# ---- the schema


def camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def test_numbers_are_those_of_the_schema() -> None:
    for name, (number, options) in CODES.items():
        assert getattr(schema_py_generated.BuiltinOperator, name) == number
        assert not options or getattr(schema_py_generated.BuiltinOptions, options) == OPTIONS[options]
    for name, number in TYPES.items():
        assert getattr(schema_py_generated.TensorType, name.upper()) == number
    for name, number in PADDINGS.items():
        assert getattr(schema_py_generated.Padding, name) == number


def test_tables_are_those_of_the_schema() -> None:
    source = Path(schema_py_generated.__file__).read_text("utf-8")
    for table, fields in TABLES.items():
        for name, field in fields.items():
            setter = rf"def {table}Add{camel(name)}\(builder, \w+\):\s+builder\."
            found = re.search(setter + r"Prepend(\w+)Slot\((\d+), .*?, ([^,)]+)\)", source)
            assert found is not None, f"{table}.{name}"
            assert int(found[2]) == field.slot
            if found[1] != "UOffsetTRelative":
                assert found[1] == field.kind.capitalize()
                assert float(found[3]) == field.default


def test_weights_lie_where_vector_instructions_want_them(program: Program) -> None:
    content = tflite_bytes(program, PI)
    model = schema_py_generated.Model.GetRootAs(content, 0)
    assert content[4:8] == b"TFL3"
    data = [model.Buffers(i).DataAsNumpy().tobytes() for i in range(1, model.BuffersLength())]
    large = [part for part in data if len(part) > 500]
    assert len(large) > 4
    assert all(content.find(part) % 16 == 0 for part in large)


def test_equal_programs_give_equal_bytes(program: Program) -> None:
    assert tflite_bytes(program, PI) == tflite_bytes(program, PI)


def test_versions_are_the_oldest_that_take_the_types() -> None:
    def version(code: str, *inputs: Tensor, **options: int) -> int:
        return version_of(Operator(code, list(inputs), [Tensor("y", (1, 4), inputs[-1].dtype, q)], options))

    q = Quantization.of(0.5, 0)
    floats, integers = Tensor("x", (1, 4), "float32"), Tensor("x", (1, 4), "int8", q)
    small = Tensor("s", (1, 4), "int8", Quantization.of(0.1, 0))
    assert [version("ADD", t, t) for t in (floats, integers)] == [1, 2]
    assert [version("MUL", t, t) for t in (integers, small)] == [2, 2]
    large = Tensor("l", (1, 4), "int8", Quantization.of(1.5, 0))
    assert version("MUL", large, large) == 3, "the product of the scales is more than one"
    assert version("FULLY_CONNECTED", floats, floats) == 6, "without a bias"
    assert version("FULLY_CONNECTED", floats, floats, floats, keep_num_dims=1) == 5
    assert version("TRANSPOSE", Tensor("x", (1,) * 5, "float32")) == 4
    assert version("DEQUANTIZE", Tensor("x", (2,), "int8", Quantization((0.1, 0.2), (0, 0)))) == 5


# ---- orders of axes


@settings(deadline=None)
@given(st.data())
def test_a_reshape_in_any_order_keeps_every_element(data: st.DataObject) -> None:
    shape = data.draw(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=4))
    order = tuple(data.draw(st.permutations(range(len(shape)))))
    factors = [f for size in shape for f in ([2, 2] if size == 4 else [size])]
    cuts = sorted(data.draw(st.sets(st.integers(1, 8), max_size=3)) & set(range(1, len(factors))))
    to = [int(np.prod(part)) for part in np.split(factors, cuts)]
    values = np.arange(np.prod(shape)).reshape(shape)
    needed, result = regrouped(shape, order, to)
    stored = values.transpose(needed).reshape([to[axis] for axis in result])
    assert np.array_equal(stored.transpose(np.argsort(result)), values.reshape(to))


def copies(program: Program, edges: Edges | None = None) -> int:
    draft = lowered(readable(program, PI).graph, OPERATORS, edges or Edges()).draft
    return sum(operator.code == "TRANSPOSE" for operator in draft.operators)


class Shuffled(nn.Module):
    """Channels of two halves are mixed, as ShuffleNet does."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x).relu()
        n, c, h, w = x.shape
        return self.second(x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w))


def exported(module: nn.Module, *shape: int) -> Program:
    torch.manual_seed(0)
    return export_program((module.eval(), (torch.zeros(shape),)))


def test_nothing_is_moved_but_at_the_edges(program: Program) -> None:
    assert copies(program) == 0, "an image of one channel lies alike in every order"
    classifier = exported(CLASSIFIER, 1, 3, 8, 8)
    assert copies(classifier) == 1, "the image; the weights behind the flattening are sorted instead"
    assert copies(classifier, Edges(channels_last=True)) == 0
    assert copies(exported(Shuffled(), 1, 3, 8, 8)) == 3, "the image, the shuffle, the answer"


CLASSIFIER = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 4))
DECODER = nn.Sequential(nn.Conv2d(3, 8, 3), nn.PReLU(8), nn.Upsample(scale_factor=2), nn.ConvTranspose2d(8, 4, 2, 2))


@pytest.mark.parametrize("module", [CLASSIFIER, DECODER, Shuffled()], ids=["classifier", "decoder", "shuffled"])
def test_a_network_answers_alike(module: nn.Module) -> None:
    network = exported(module, 1, 3, 8, 8)
    name = network.signature.inputs[0].name
    sample = {name: generator(0, "image").normal(0, 1, (1, 3, 8, 8)).astype(np.float32)}
    want = next(iter(network.run(sample).values()))
    for edges in (Edges(), Edges(channels_last=True)):
        got = next(iter(Interpreter(tflite_bytes(network, PI, edges))(sample).values()))
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


# ---- digits, all the way


@pytest.fixture(scope="module")
def program() -> Program:
    return export_program()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> toolkit.Bundle:
    return toolkit.compile(target="raspberry_pi_4", output=tmp_path_factory.mktemp("digits") / "bundle")


def test_the_raspberry_gets_a_file_that_is_complete(bundle: toolkit.Bundle) -> None:
    assert (bundle.artifact.file, bundle.artifact.format) == ("model.tflite", "tflite")
    assert bundle.artifact.complete
    assert not bundle.artifact.checked
    assert (bundle.path / "model.onnx").is_file()
    assert (bundle.path / "model.tflite").stat().st_size < (bundle.path / "model.onnx").stat().st_size
    assert verify_bundle(bundle).passed


def test_integers_tell_the_digits_apart_as_onnxruntime_does(bundle: toolkit.Bundle) -> None:
    from toolkit.sources import load_source

    validation = load_source(None, inputs=[]).validation
    assert validation is not None
    assert validation.labels is not None
    content = (bundle.path / "model.tflite").read_bytes()
    quantized = (bundle.path / "model.onnx").read_bytes()
    graph = Session(quantized, optimize=False)
    step = next(onnx.numpy_helper.to_array(t) for t in onnx.load_model_from_string(quantized).graph.initializer
                if t.name == "output_scale")  # fmt: skip
    own, fast = Interpreter(content, xnnpack=False), Interpreter(content)
    same = right = 0
    for sample, label in zip(validation, validation.labels, strict=True):
        want, got, also = (call(sample)["output"] for call in (graph, fast, own))
        assert np.abs(np.rint((got - want) / step)).max() <= 1, "XNNPACK rounds a product as float arithmetic does"
        assert np.abs(np.rint((also - want) / step)).max() <= 2, "fixed point: one step an operator, six of them"
        same += also.argmax() == want.argmax()
        right += got.argmax() == label
    assert same >= len(validation) - 1
    assert right >= 0.98 * len(validation)


def test_an_input_of_another_shape_is_refused(bundle: toolkit.Bundle) -> None:
    runner = BACKENDS["litert"].load(bundle.path / "model.tflite")
    with pytest.raises(InvalidInput, match="in one size"):
        runner({"image": np.zeros((1, 1, 9, 8), np.float32)})


def test_a_damaged_file_is_refused(bundle: toolkit.Bundle, tmp_path: Path) -> None:
    content = (bundle.path / "model.tflite").read_bytes()
    for damaged in (content[:100], b"no model at all" * 10):
        (tmp_path / "model.tflite").write_bytes(damaged)
        with pytest.raises(InvalidInput, match="LiteRT"):
            BACKENDS["litert"].load(tmp_path / "model.tflite")


@pytest.mark.parametrize("recipe", ["float16", "weights8"])
def test_weights_are_stored_as_the_recipe_says(recipe: str, tmp_path: Path) -> None:
    made = toolkit.compile(target="raspberry_pi_4", recipe=recipe, output=tmp_path / "bundle")
    assert verify_bundle(made).passed
    assert made.report["after"]["size_bytes"] < 0.55 * made.report["before"]["size_bytes"]
    golden = made.golden[0]
    np.testing.assert_allclose(golden.outputs["output"], golden.reference["output"], rtol=0.02, atol=0.05)


def test_a_batch_is_taken_sample_by_sample() -> None:
    network = export_program((nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), (torch.zeros(4, 3, 8, 8),)),
                             inputs=["Nx3x8x8"])  # fmt: skip
    sample = {network.signature.inputs[0].name: generator(0, "batch").normal(0, 1, (5, 3, 8, 8)).astype(np.float32)}
    got = next(iter(Interpreter(tflite_bytes(network, PI))(sample).values()))
    np.testing.assert_allclose(got, next(iter(network.run(sample).values())), rtol=1e-4, atol=1e-5)


# ---- what cannot be written


def test_every_operator_that_is_refused_is_named_with_its_line(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.det(x) + torch.cumsum(x, 1).sum((1, 2))

    with pytest.raises(InvalidInput) as refusal:
        toolkit.compile((Odd(), (torch.eye(4)[None],)), target="raspberry_pi_4", output=tmp_path / "bundle")
    assert "Det " in refusal.value.problem
    assert "CumSum " in refusal.value.problem
    assert "test_tflite_files.py:" in refusal.value.problem
    assert "--stack onnxruntime-int8" in refusal.value.hint
    assert not (tmp_path / "bundle").exists()


def test_a_size_that_nobody_stated_is_asked_for(tmp_path: Path) -> None:
    graph = "g (float[N,3,H,W] x) => (float[N,4] y) { p = GlobalAveragePool(x) f = Flatten(p) y = Gemm(f, w) }"
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> {graph}')
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((3, 4), np.float32), "w"))
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(InvalidInput, match="fixed sizes") as refusal:
        toolkit.compile(tmp_path / "net.onnx", target="raspberry_pi_4", stack="tflite-fp32")
    assert "--input x=1x3x" in refusal.value.hint
    stated = export_program(tmp_path / "net.onnx", inputs=["x=1x3x8x8"])
    sample = {"x": np.ones((1, 3, 8, 8), np.float32)}
    np.testing.assert_allclose(Interpreter(tflite_bytes(stated, PI))(sample)["y"], [[3.0] * 4], rtol=1e-6)


def test_without_the_extra_the_graph_answers_and_running_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    monkeypatch.setattr(runtime, "find_spec", lambda name: None)
    made = toolkit.compile(target="raspberry_pi_4", output=tmp_path / "bundle")
    assert made.artifact.complete
    assert "answers of model.onnx" in made.artifact.checked
    with pytest.raises(MissingDependency, match="LiteRT") as missing:
        verify_bundle(made)
    assert "edge-toolkit[litert]" in missing.value.hint
    assert main(["verify", str(tmp_path / "bundle")]) == 3
    assert "litert" in capsys.readouterr().err
    monkeypatch.undo()
    assert verify_bundle(toolkit.load(tmp_path / "bundle")).passed, "where the extra is, the file agrees with the graph"


# ---- the Edge TPU

LOG = """Edge TPU Compiler version 16.0.384591198
Input: model.tflite
Output: model_edgetpu.tflite

Operator                       Count      Status

CONV_2D                        5          Mapped to Edge TPU
MEAN                           1          Mapped to Edge TPU
SOFTMAX                        1          Operation is working on an unsupported data type
"""

FAKE = """#!{python}
import pathlib, sys
folder = pathlib.Path(sys.argv[sys.argv.index("--out_dir") + 1])
model = pathlib.Path(sys.argv[-1])
if {refuses}:
    sys.exit("ERROR: Failed to compile: model is not quantized")
(folder / "model_edgetpu.tflite").write_bytes(b"compiled from " + model.read_bytes()[:8])
(folder / "model_edgetpu.log").write_text({log!r})
"""


def fake_compiler(folder: Path, *, refuses: bool) -> str:
    path = folder / COMPILER
    path.write_text(FAKE.format(python=sys.executable, refuses=refuses, log=LOG))
    path.chmod(0o755)
    return str(folder)


def test_the_log_of_the_compiler_tells_where_operators_run() -> None:
    partition = parse_log(LOG)
    assert (partition.compiler, partition.on_chip, partition.on_host) == ("16.0.384591198", 6, 1)
    assert partition.operators[2].status == "Operation is working on an unsupported data type"
    with pytest.raises(InvalidInput, match="no table"):
        parse_log("nothing")


def test_its_list_is_held_against_each_operator() -> None:
    q = Quantization.of(0.5, 0)

    def why(code: str, *shapes: tuple[int, ...], dtype: str = "int8", **options: int) -> str:
        tensors = [Tensor("t", shape, dtype, q if dtype == "int8" else None) for shape in shapes]
        return left_to_host(Operator(code, list(tensors[:-1]), [tensors[-1]], options))

    image, row = (1, 8, 8, 4), (1, 12)
    assert why("ADD", image, image, image) == ""
    assert why("ADD", image, image, image, dtype="float32") == "computes in float32"
    assert why("GELU", image, image) == "is not in its list"
    assert (
        why("ADD", (2, 8, 8, 4), (2, 8, 8, 4), (2, 8, 8, 4)) == "has more than three dimensions beside a batch of one"
    )
    assert why("MAX_POOL_2D", image, (1, 4, 4, 4), fused_activation_function=1) == "has a fused activation function"
    assert why("SOFTMAX", row, row) == ""
    assert why("SOFTMAX", (1, 20_000), (1, 20_000)) == "has more than 16000 elements"
    assert why("FULLY_CONNECTED", (3, 12), (3, 4)) == "gives more than one row"
    assert why("PRELU", image, (1, 1, 4), image) == ""
    assert why("PRELU", image, (8, 8, 4), image) == "has slopes for each position"
    dilated = {"dilation_h_factor": 1, "dilation_w_factor": 2}
    assert why("CONV_2D", image, (1, 1, 3, 4), (1, 8, 6, 1), **dilated) == "is dilated differently in height and width"


def test_what_follows_an_operator_of_the_host_stays_there() -> None:
    q = Quantization.of(0.5, 0)
    a, b, c, d = (Tensor(name, (1, 4), "int8", q) for name in "abcd")
    draft = Draft([Operator("RELU", [a], [b]), Operator("GELU", [b], [c]), Operator("RELU", [c], [d])])
    partition = forecast(draft)
    assert (partition.on_chip, partition.on_host) == (1, 2)
    assert {row.status for row in partition.operators if row.operator == "RELU"} == {
        "Mapped to Edge TPU", "comes after an operator that stays on the host",
    }  # fmt: skip


def test_without_the_compiler_the_file_is_what_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    made = toolkit.compile(target="coral_tpu", output=tmp_path / "bundle")
    assert (made.artifact.file, made.artifact.complete) == ("model.tflite", False)
    assert made.artifact.remaining.startswith("edgetpu_compiler model.tflite")
    assert not list(made.path.glob("*edgetpu*"))
    partition = json.loads((made.path / "partition.json").read_text())
    assert partition["compiler"].startswith("not asked")
    assert (partition["on_chip"], partition["on_host"]) == (12, 0)
    runner = Interpreter((made.path / "model.tflite").read_bytes())
    details = [*runner._inputs.values(), *runner._outputs.values()]
    assert [d["dtype"] for d in details] == [np.int8, np.int8]
    codes = [o.code for o in lowered(readable(export_program(), PI).graph, OPERATORS, Edges()).draft.operators]
    assert "TRANSPOSE" not in codes
    assert verify_bundle(made).passed, "the signature stays that of the model: floats"


def test_with_the_compiler_its_file_is_what_the_device_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", fake_compiler(tmp_path, refuses=False))
    made = toolkit.compile(target="coral_tpu", output=tmp_path / "bundle")
    assert (made.artifact.file, made.artifact.complete) == ("model_edgetpu.tflite", True)
    assert made.manifest["sha256"].keys() >= {"model.onnx", "model.tflite", "model_edgetpu.tflite", "partition.json"}
    partition = json.loads((made.path / "partition.json").read_text())
    assert (partition["on_chip"], partition["on_host"]) == (6, 1)
    assert not list(made.path.glob("*.log")), "it holds times"
    assert verify_bundle(made).passed, "through the file that it was compiled from"


def test_a_refusal_of_the_compiler_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", fake_compiler(tmp_path, refuses=True))
    with pytest.raises(InvalidInput, match="model is not quantized"):
        toolkit.compile(target="coral_tpu", output=tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_every_stack_that_wants_a_tflite_gets_one(program: Program, tmp_path: Path) -> None:
    stacks = [s for name in target_names() for s in load_target(name).stacks.values() if s.artifact == "tflite"]
    assert len(stacks) > 10
    contents = set()
    for stack in stacks:
        BACKENDS[stack.backend].lower(program, stack, tmp_path)
        contents.add((tmp_path / "model.tflite").read_bytes())
    assert len(contents) == 1, "one float network, one file"
