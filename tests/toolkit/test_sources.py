"""A model from every kind of source answers as it does in memory, under the name, shapes and digest that it has."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from passes.context import synthetic_data
from passes.program import Level, Program
from targets.errors import InvalidInput, UnknownName
from tests.toolkit.small_models import Branches, Net, seeded_net, small_onnx
from toolkit.input_shapes import parse_input
from toolkit.sources import load_source


@pytest.fixture(scope="module")
def net() -> Net:
    return seeded_net()


PICTURE = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 1, 8, 8)


def answer(program: Program, picture: np.ndarray = PICTURE) -> np.ndarray:
    (output,) = program.run({program.signature.inputs[0].name: picture}).values()
    return output


def truth(net: Net, picture: np.ndarray = PICTURE) -> np.ndarray:
    with torch.no_grad():
        return net(torch.from_numpy(picture)).numpy()


# ---- kinds of sources


def test_module_in_memory(net: Net) -> None:
    program = load_source((net, (torch.zeros(1, 1, 8, 8),))).program
    assert [s.name for s in program.signature.inputs] == ["picture"]
    np.testing.assert_allclose(answer(program), truth(net), rtol=1e-6)


def test_a_program_in_memory_is_called_after_its_module(net: Net) -> None:
    assert load_source((net, (torch.zeros(1, 1, 8, 8),))).program.name == "net"


def test_factory_named_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nets_of_a_user.py").write_text(
        "import torch\ndef tiny():\n    return torch.nn.Linear(4, 2), (torch.zeros(1, 4),)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    program = load_source("nets_of_a_user:tiny").program
    assert program.name == "tiny"
    assert program.signature.inputs[0].shape == (1, 4)


@pytest.mark.parametrize("batch", [1, 5])
def test_pt2_keeps_its_varying_batch(net: Net, tmp_path: Path, batch: int) -> None:
    path = tmp_path / "net.pt2"
    dims = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(net, (torch.zeros(2, 1, 8, 8),), dynamic_shapes=dims), path)
    program = load_source(path).program
    assert isinstance(program.signature.inputs[0].shape[0], str)
    picture = np.repeat(PICTURE, batch, 0)
    np.testing.assert_allclose(answer(program, picture), truth(net, picture), rtol=1e-6)


def test_torchscript_wants_a_shape_and_gets_one(net: Net, tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.jit.save(torch.jit.trace(net, torch.zeros(1, 1, 8, 8)), path)
    with pytest.raises(InvalidInput, match="input shape") as caught:
        load_source(path)
    assert "--input" in caught.value.hint
    np.testing.assert_allclose(answer(load_source(path, inputs=["1x1x8x8"]).program), truth(net), rtol=1e-6)


def test_onnx_with_external_data(tmp_path: Path) -> None:
    small_onnx(tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    program = load_source(tmp_path / "m.onnx").program
    assert program.level is Level.ONNX
    assert program.signature.inputs[0].shape == ("batch", 300)
    x = np.arange(300, dtype=np.float32)[None]
    np.testing.assert_array_equal(answer(program, x), x)


def test_the_example_comes_with_data() -> None:
    source = load_source()
    assert source.validation is not None
    assert source.data is not None
    assert len(source.validation) == 360
    for sample in source.data.take(1):
        source.program.signature.check_inputs(sample)


def test_synthetic_data_says_so(net: Net) -> None:
    program = load_source((net, (torch.zeros(1, 1, 8, 8),))).program
    assert synthetic_data(program.signature, 0).name == "synthetic"


# ---- names and shapes


@pytest.mark.parametrize(
    ("spec", "hint"), [("nets.py:network", "write nets:network"), ("a/nets.py:f", "write a.nets:f")]
)
def test_a_file_where_a_module_belongs(spec: str, hint: str) -> None:
    with pytest.raises(InvalidInput, match="names a file where a module belongs") as refusal:
        load_source(spec)
    assert refusal.value.hint == hint


def test_names_that_are_nothing() -> None:
    with pytest.raises(UnknownName) as caught:
        load_source("digit")
    assert "digits" in caught.value.hint
    with pytest.raises(InvalidInput, match="no file"):
        load_source("no/such/model.onnx")
    with pytest.raises(InvalidInput, match="no module"):
        load_source("no_such_module:build")


@pytest.mark.parametrize("text", ["", "1x-3x4", "1xx4", "1x3:floaty", "1 x 3"])
def test_input_shapes_that_do_not_read(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_input(text)


def test_input_shape_with_name_type_and_varying_batch() -> None:
    spec = parse_input("ids=batchx16:int64")
    assert (spec.name, spec.dtype, spec.shape) == ("ids", "int64", ("batch", 16))


def test_names_of_varying_dimensions_may_hold_an_x() -> None:
    assert parse_input("ids=batch,max_length:int64").shape == ("batch", "max_length")
    assert parse_input("1, 3, height, width").shape == (1, 3, "height", "width")
    assert parse_input("factor=scalar").shape == ()
    for text in ("1,,3", ",", "1x3,4", "a b,3"):
        with pytest.raises(InvalidInput, match="--input"):
            parse_input(text)


def test_a_stated_input_that_fits_nothing_is_refused(net: Net, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="fits no input"):
        load_source((net, (torch.zeros(1, 1, 8, 8),)), inputs=["other=1x1x8x8"])
    assert load_source((net, (torch.zeros(1, 1, 8, 8),)), inputs=["3x1x8x8"]).program.example["picture"].shape[0] == 3
    small_onnx(tmp_path / "m.onnx")
    for text in ("nosuch=1x300", "x=1x301", "x=1x300:int64"):
        with pytest.raises(InvalidInput, match="fits no input"):
            load_source(tmp_path / "m.onnx", inputs=[text])
    assert load_source(tmp_path / "m.onnx", inputs=["x=4x300"]).program.example["x"].shape == (4, 300)


# ---- digests


def test_digest_is_of_the_model_not_of_the_file(net: Net, tmp_path: Path) -> None:
    first = load_source((net, (torch.zeros(1, 1, 8, 8),))).program
    again = load_source((net, (torch.ones(1, 1, 8, 8),))).program
    assert first.digest == again.digest
    with torch.no_grad():
        net.head.bias += 1
    assert load_source((net, (torch.zeros(1, 1, 8, 8),))).program.digest != first.digest
    with torch.no_grad():
        net.head.bias -= 1


def test_scripts_that_differ_in_code_alone_have_other_digests(tmp_path: Path) -> None:
    linear = nn.Linear(4, 4)
    digests = set()
    for last in (nn.ReLU(), nn.Tanh()):
        torch.jit.save(torch.jit.script(nn.Sequential(linear, last)), tmp_path / "m.pt")
        digests.add(load_source(tmp_path / "m.pt", inputs=["1x4"]).program.digest)
    assert len(digests) == 2


@pytest.mark.slow
def test_programs_that_differ_inside_a_branch_have_other_digests() -> None:
    first, second = (load_source((Branches(f), (torch.ones(3),))).program.digest for f in (2.0, 3.0))
    assert first != second


# ---- the user's own code


def test_what_a_factory_raises_is_said_with_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_factories.py").write_text(
        "import sys\ndef raises():\n    raise RuntimeError('no weights')\ndef leaves():\n    sys.exit(0)\n"
    )
    (tmp_path / "broken_syntax.py").write_text("def f(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(InvalidInput, match=r"no weights.*broken_factories\.py:3"):
        load_source("broken_factories:raises")
    with pytest.raises(InvalidInput, match="SystemExit"):
        load_source("broken_factories:leaves")
    with pytest.raises(InvalidInput, match="SyntaxError"):
        load_source("broken_syntax:f")
    with pytest.raises(InvalidInput, match="does not name a file"):
        load_source("https://example.org/model:latest")


def test_a_module_in_training_stays_in_training() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.9)).train()
    program = load_source((network, (torch.ones(1, 3),))).program
    assert network.training
    first, second = (program.run({"input": np.ones((1, 3), np.float32)})["output"] for _ in range(2))
    np.testing.assert_array_equal(first, second)
