"""Models whose inputs vary in size: a batch is priced as one, which is said; other sizes must be stated."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from onnx import numpy_helper
from torch import nn

import toolkit
from targets.errors import InvalidInput
from toolkit.cli.main import main
from toolkit.driver import load_program
from toolkit.inspection import inspect_model
from toolkit.varying_sizes import check_sizes, size_notes

STACK = ("--stack", "raspberry_pi_4/tflite-fp32", "-q")
CONVOLUTION = "c = Conv<strides=[2,2],pads=[1,1,1,1]>(x, w) p = GlobalAveragePool(c) f = Flatten(p) y = Gemm(f, h)"
BATCH = "batch N of input x priced as 1; state it with --input x=8x3x32x32"


def saved(folder: Path, inputs: str, body: str = CONVOLUTION, **weights: tuple[int, ...]) -> str:
    """A file of a graph with these inputs; the name of the file."""
    weights = weights or {"w": (16, 3, 3, 3), "h": (16, 10)}
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 18]> g ({inputs}) => (float[N,10] y) {{ {body} }}'
    )
    for name, shape in weights.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
    onnx.save(proto, folder / "net.onnx")
    return str(folder / "net.onnx")


@pytest.fixture
def batch(tmp_path: Path) -> str:
    return saved(tmp_path, "float[N,3,32,32] x")


@pytest.fixture
def image(tmp_path: Path) -> str:
    return saved(tmp_path, "float[N,3,H,W] x")


def printed(capsys: pytest.CaptureFixture[str], *command: str, code: int = 0) -> str:
    assert main([*command]) == code
    return capsys.readouterr().out


# ---- a batch


@pytest.mark.parametrize("verb", ["estimate", "check"])
def test_a_batch_that_nobody_stated_is_one_and_that_is_said(
    verb: str, batch: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert BATCH in printed(capsys, verb, batch, *STACK).splitlines()
    assert json.loads(printed(capsys, verb, batch, *STACK, "--json"))["notes"] == [BATCH]


@pytest.mark.parametrize("verb", ["estimate", "check"])
def test_a_network_of_one_size_has_nothing_to_say(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path, "float[1,3,32,32] x")
    assert "priced as" not in printed(capsys, verb, path, *STACK)
    assert json.loads(printed(capsys, verb, path, *STACK, "--json"))["notes"] == []


def test_a_stated_batch_is_priced(batch: str, capsys: pytest.CaptureFixture[str]) -> None:
    one = json.loads(printed(capsys, "estimate", batch, *STACK, "--json"))
    eight = json.loads(printed(capsys, "estimate", batch, *STACK, "--json", "--input", "x=8x3x32x32"))
    assert eight["notes"] == ["input x priced as 8x3x32x32, of which N may vary"]
    macs = [sum(op["macs"] for op in document["operators"]) for document in (one, eight)]
    assert macs[1] == 8 * macs[0]


def test_the_hint_that_is_given_can_be_typed(batch: str, capsys: pytest.CaptureFixture[str]) -> None:
    hint = BATCH.rpartition(" ")[2]
    assert "8x3x32x32, of which N" in printed(capsys, "estimate", batch, *STACK, "--input", hint)


# ---- other sizes


@pytest.mark.parametrize(
    ("inputs", "names", "hint"),
    [
        ("float[1,3,H,32] x", "H", "x=1x3x224x32"),
        ("float[N,3,H,W] x", "H, W", "x=1x3x224x224"),
        ("float[N,C,H,W] x", "C, H, W", "x=1x3x224x224"),
    ],
)
@pytest.mark.parametrize("verb", ["estimate", "check"])
def test_a_size_beside_the_batch_must_be_stated(
    verb: str, inputs: str, names: str, hint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(tmp_path, inputs)
    assert main([verb, path, *STACK]) == 5
    said = capsys.readouterr()
    assert said.out == ""
    assert f"varies in {names}, and what an inference costs depends on it" in said.err
    assert f"--input {hint}" in said.err
    text = printed(capsys, verb, path, *STACK, "--input", hint)
    assert f"input x priced as {hint.removeprefix('x=')}, of which" in text


def test_integers_are_named_in_the_hint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path, "int64[N,S] ids", "e = Gather(t, ids) p = ReduceMean<keepdims=0>(e, a) y = MatMul(p, h)",
                 t=(100, 16), h=(16, 10))  # fmt: skip
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "a"))
    onnx.save(model, path)
    assert main(["estimate", path, *STACK]) == 5
    assert "--input ids=1x128:int64" in capsys.readouterr().err
    assert main(["estimate", path, *STACK, "--input", "ids=1x128:int64"]) == 0


def test_python_is_refused_as_the_command_line_is(image: str) -> None:
    with pytest.raises(InvalidInput, match="varies in H, W"):
        toolkit.estimate(image, target="raspberry_pi_4")
    found = toolkit.estimate(image, target="raspberry_pi_4", inputs=["1x3x64x64"])
    assert found.macs == 32 * 32 * 27 * 16 + 160


def test_a_name_has_one_size_in_every_input(tmp_path: Path) -> None:
    path = saved(tmp_path, "float[N,S] x, float[N,S] z", "a = Add(x, z) y = MatMul(a, h)", h=(64, 10))
    program = load_program(path, inputs=["x=8x64"])
    assert {name: array.shape for name, array in program.example.items()} == {"x": (8, 64), "z": (8, 64)}
    assert program.assumed == {}


def test_a_shape_without_a_name_is_that_of_the_input_it_fits(tmp_path: Path) -> None:
    path = saved(tmp_path, "float[N,64] x, float[N,10] z", "a = MatMul(x, h) y = Add(a, z)", h=(64, 10))
    program = load_program(path, inputs=["8x64"])
    assert {name: array.shape for name, array in program.example.items()} == {"x": (8, 64), "z": (8, 10)}


# ---- sizes that somebody gave


def test_samples_say_the_sizes_beside_the_batch(image: str, tmp_path: Path) -> None:
    samples = np.zeros((5, 3, 64, 96), np.float32)
    np.save(tmp_path / "samples.npy", samples)
    for data in (str(tmp_path / "samples.npy"), samples, {"x": samples}):
        program = load_program(image, data=data)
        assert program.example["x"].shape == (1, 3, 64, 96)
        assert program.assumed == {"x": (0,)}
        check_sizes(program)
        assert size_notes(program) == ("batch N of input x priced as 1; state it with --input x=8x3x64x96",)
    stated = load_program(image, data=samples, inputs=["x=2x3x32x32"])
    assert stated.example["x"].shape == (2, 3, 32, 32)


def test_samples_of_another_rank_say_nothing(image: str) -> None:
    program = load_program(image, data=np.zeros((5, 64), np.float32))
    assert program.assumed == {"x": (0, 2, 3)}


class Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).mean((2, 3))


def test_example_inputs_of_a_module_are_sizes_that_somebody_gave() -> None:
    program = load_program((Pooled(), (torch.zeros(2, 3, 16, 16),)), inputs=["Nx3xHx16"])
    assert program.assumed == {}
    assert size_notes(program) == ("input x priced as 2x3x16x16, of which N, H may vary",)
    check_sizes(program)


def test_a_letter_without_example_inputs_gives_no_size() -> None:
    program = load_program(Pooled(), inputs=["Nx3xHx16"])
    assert program.assumed == {"x": (0, 2)}
    with pytest.raises(InvalidInput, match="varies in H"):
        check_sizes(program)
    check_sizes(load_program(Pooled(), inputs=["Nx3x16x16"]))


# ---- where no price is asked for


def test_a_look_inside_says_what_it_was_counted_with(image: str, capsys: pytest.CaptureFixture[str]) -> None:
    (note,) = inspect_model(image)["notes"]
    assert "sizes that nobody stated" in note
    assert "H as 2, W as 2" in note
    assert note in printed(capsys, "inspect", image, "-q")


@pytest.mark.slow
def test_a_compiled_model_keeps_its_sizes_open_and_its_report_says_at_which_it_was_priced(
    batch: str, image: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, inputs, expected in (
        ("open", [], "H as 2, W as 2"),
        ("stated", ["--input", "x=1x3x32x32"], "input x priced as 1x3x32x32, of which N, H, W may vary"),
    ):
        bundle = tmp_path / name
        text = printed(capsys, "compile", image, "-t", "desktop_cpu", "--recipe", "float32", "-o", str(bundle), *inputs)
        report = json.loads((bundle / "report.json").read_text())
        assert report["model"]["inputs"] == ["x: float32[N, 3, H, W]"]
        (note,) = report["model"]["sizes"]
        assert expected in note
        assert note in text
        assert note in (bundle / "report.html").read_text()


def test_what_is_known_of_the_sizes_survives_the_cache(image: str) -> None:
    for _ in range(2):  # the second time the passes come from the cache
        assert "nobody stated" in inspect_model(image)["notes"][0]
