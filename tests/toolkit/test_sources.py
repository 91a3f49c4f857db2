"""A model from every kind of source answers as it does in memory; a file that could do harm is refused."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from passes.context import synthetic_data
from passes.program import Level, Program
from targets.errors import InvalidInput, UnknownName
from toolkit.driver import estimate_model, export_program
from toolkit.input_shapes import parse_input
from toolkit.inspection import inspect_model
from toolkit.sources import load_source


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.norm(self.conv(picture))).mean((2, 3)))


@pytest.fixture(scope="module")
def net() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net().eval()


PICTURE = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 1, 8, 8)


def answer(program: Program, picture: np.ndarray = PICTURE) -> np.ndarray:
    (output,) = program.run({program.signature.inputs[0].name: picture}).values()
    return output


def truth(net: Net, picture: np.ndarray = PICTURE) -> np.ndarray:
    with torch.no_grad():
        return net(torch.from_numpy(picture)).numpy()


def test_module_in_memory(net: Net) -> None:
    program = load_source((net, (torch.zeros(1, 1, 8, 8),))).program
    assert [s.name for s in program.signature.inputs] == ["picture"]
    np.testing.assert_allclose(answer(program), truth(net), rtol=1e-6)


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


def small_onnx(path: Path, **save: object) -> None:
    weight = onnx.numpy_helper.from_array(np.eye(300, dtype=np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 300])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 300])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path, **save)


def test_onnx_with_external_data(tmp_path: Path) -> None:
    small_onnx(tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    program = load_source(tmp_path / "m.onnx").program
    assert program.level is Level.ONNX
    assert program.signature.inputs[0].shape == ("batch", 300)
    x = np.arange(300, dtype=np.float32)[None]
    np.testing.assert_array_equal(answer(program, x), x)


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/passwd", "gone.bin"])
def test_external_data_may_not_leave_the_folder(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(4 * 300 * 300))
    folder = tmp_path / "model"
    folder.mkdir()
    small_onnx(folder / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    model = onnx.load(folder / "m.onnx", load_external_data=False)
    model.graph.initializer[0].external_data[0].value = location
    onnx.save(model, folder / "m.onnx")
    with pytest.raises(InvalidInput, match=r"outside|not there"):
        load_source(folder / "m.onnx")


def test_symlink_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(bytes(4 * 300 * 300))
    folder = tmp_path / "model"
    folder.mkdir()
    small_onnx(folder / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    (folder / "m.bin").unlink()
    (folder / "m.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(InvalidInput, match="outside"):
        load_source(folder / "m.onnx")


@pytest.mark.parametrize("keep", [0, 1, 10, 200, 3000])
def test_truncated_onnx(tmp_path: Path, keep: int) -> None:
    small_onnx(tmp_path / "m.onnx")
    content = (tmp_path / "m.onnx").read_bytes()
    (tmp_path / "m.onnx").write_bytes(content[:keep])
    with pytest.raises(InvalidInput):
        load_source(tmp_path / "m.onnx")


# ---- files that could run code


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("legacy", [False, True])
def test_pickle_is_not_run_without_trust(tmp_path: Path, legacy: bool) -> None:
    mark, path = tmp_path / "ran", tmp_path / "m.pt"
    if legacy:
        path.write_bytes(pickle.dumps(Bomb(mark)))
    else:
        torch.save(Bomb(mark), path)
    with pytest.raises(InvalidInput, match="run code") as caught:
        load_source(path)
    assert "--trust" in caught.value.hint
    assert not mark.exists()


def test_pickle_is_loaded_with_trust(net: Net, tmp_path: Path) -> None:
    torch.save(nn.Linear(4, 2), tmp_path / "m.pt")
    program = load_source(tmp_path / "m.pt", trust=True, inputs=["1x4"]).program
    assert program.signature.outputs[0].shape == (1, 2)


def test_weights_alone_are_not_a_model(net: Net, tmp_path: Path) -> None:
    torch.save(net.state_dict(), tmp_path / "w.pt")
    with pytest.raises(InvalidInput, match="weights without the network"):
        load_source(tmp_path / "w.pt")


def rewritten(path: Path, change: object) -> None:
    """Rewrite members of a zip: `change` maps (name, content) to content."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, change(name, content))  # type: ignore[operator]


@pytest.fixture
def pt2(net: Net, tmp_path: Path) -> Path:
    path = tmp_path / "net.pt2"
    dims = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(net, (torch.zeros(2, 1, 8, 8),), dynamic_shapes=dims), path)
    return path


def test_pt2_with_pickled_sample_inputs_is_refused(pt2: Path, tmp_path: Path) -> None:
    bomb = io.BytesIO()
    torch.save(Bomb(tmp_path / "ran"), bomb)
    rewritten(pt2, lambda name, content: bomb.getvalue() if name.endswith("sample_inputs/model.pt") else content)
    with pytest.raises(InvalidInput, match="pickle"):
        load_source(pt2)
    assert not (tmp_path / "ran").exists()


def test_pt2_with_pickled_weights_is_refused(pt2: Path, tmp_path: Path) -> None:
    bomb = io.BytesIO()
    torch.save(Bomb(tmp_path / "ran"), bomb)

    def change(name: str, content: bytes) -> bytes:
        if name.endswith("weights/model_weights_config.json"):
            return content.replace(b'"use_pickle": false', b'"use_pickle": true')
        return bomb.getvalue() if name.endswith("weights/weight_0") else content

    rewritten(pt2, change)
    with pytest.raises(InvalidInput, match="pickles"):
        load_source(pt2)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (r"torch\.ops\.aten\.relu\.default", "torch.os.mkdir"),
        (r"torch\.ops\.aten\.relu\.default", "torch.ops.aten.from_file.default"),
        (r"torch\.ops\.aten\.relu\.default", "_operator.attrgetter"),
        (r"Symbol\('s\d+', positive=True, integer=True\)", "__import__('os').mkdir('ran')"),
        (r"Symbol\('s\d+', positive=True, integer=True\)", "exit(0)"),
    ],
)
def test_pt2_with_code_in_its_graph_is_refused(
    pt2: Path, tmp_path: Path, old: str, new: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    changed = []

    def change(name: str, content: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return content
        text, count = re.subn(old, new, content.decode())
        changed.append(count > 0)
        return text.encode()

    rewritten(pt2, change)
    assert changed == [True]
    with pytest.raises(InvalidInput, match=r"not arithmetic|not an operator"):
        load_source(pt2)
    assert not (tmp_path / "ran").exists()


def test_pt2_with_a_guard_that_is_a_program_is_refused(pt2: Path, tmp_path: Path) -> None:
    def change(name: str, content: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return content
        document = json.loads(content)
        document["guards_code"] = ["[].__class__.__mro__[1].__subclasses__()"]
        return json.dumps(document).encode()

    rewritten(pt2, change)
    with pytest.raises(InvalidInput, match="guard"):
        load_source(pt2)


def test_damaged_archive(tmp_path: Path) -> None:
    (tmp_path / "m.pt2").write_bytes(b"PK\x03\x04 not an archive")
    with pytest.raises(InvalidInput, match="damaged archive"):
        load_source(tmp_path / "m.pt2")


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


def test_the_example_comes_with_data() -> None:
    source = load_source()
    assert source.validation is not None
    assert source.data is not None
    assert len(source.validation) == 360
    for sample in source.data.take(1):
        source.program.signature.check_inputs(sample)


def test_digest_is_of_the_model_not_of_the_file(net: Net, tmp_path: Path) -> None:
    first = load_source((net, (torch.zeros(1, 1, 8, 8),))).program
    again = load_source((net, (torch.ones(1, 1, 8, 8),))).program
    assert first.digest == again.digest
    with torch.no_grad():
        net.head.bias += 1
    assert load_source((net, (torch.zeros(1, 1, 8, 8),))).program.digest != first.digest
    with torch.no_grad():
        net.head.bias -= 1


def test_synthetic_data_says_so(net: Net) -> None:
    program = load_source((net, (torch.zeros(1, 1, 8, 8),))).program
    assert synthetic_data(program.signature, 0).name == "synthetic"


# ---- more ways for a file to do harm, found by a second reader


@pytest.mark.parametrize("member", ["data/weights/model.pt", "data/sample_inputs/other.PT", "models/model.JSON", "x"])
def test_pt2_with_a_file_that_export_does_not_write_is_refused(pt2: Path, tmp_path: Path, member: str) -> None:
    bomb = io.BytesIO()
    torch.save(Bomb(tmp_path / "ran"), bomb)
    with zipfile.ZipFile(pt2, "a") as archive:
        archive.writestr(f"net/{member}", bomb.getvalue())
    with pytest.raises(InvalidInput, match=r"does not write|two files"):
        load_source(pt2)
    assert not (tmp_path / "ran").exists()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_pt2_with_two_files_of_one_name_is_refused(pt2: Path, tmp_path: Path) -> None:
    bomb = io.BytesIO()
    torch.save(Bomb(tmp_path / "ran"), bomb)
    with zipfile.ZipFile(pt2) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(pt2, "w") as archive:
        for name, content in members:
            if name.endswith("sample_inputs/model.pt"):
                archive.writestr(name, bomb.getvalue())
            archive.writestr(name, content)
    with pytest.raises(InvalidInput, match="two files"):
        load_source(pt2)
    assert not (tmp_path / "ran").exists()


class Writes(nn.Module):
    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, self.path)
        return x


def test_torchscript_that_writes_files_is_refused(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(Writes(str(tmp_path / "ran"))), tmp_path / "m.pt")
    with pytest.raises(InvalidInput, match="beyond its tensors"):
        load_source(tmp_path / "m.pt", inputs=["1x4"])
    assert not (tmp_path / "ran").exists()


def test_scripts_that_differ_in_code_alone_have_other_digests(tmp_path: Path) -> None:
    linear = nn.Linear(4, 4)
    digests = set()
    for last in (nn.ReLU(), nn.Tanh()):
        torch.jit.save(torch.jit.script(nn.Sequential(linear, last)), tmp_path / "m.pt")
        digests.add(load_source(tmp_path / "m.pt", inputs=["1x4"]).program.digest)
    assert len(digests) == 2


class Branches(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > 0, lambda t: t * self.factor, lambda t: t - 1, (x,))


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


def test_a_stated_input_that_fits_nothing_is_refused(net: Net, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="fits no input"):
        load_source((net, (torch.zeros(1, 1, 8, 8),)), inputs=["other=1x1x8x8"])
    assert load_source((net, (torch.zeros(1, 1, 8, 8),)), inputs=["3x1x8x8"]).program.example["picture"].shape[0] == 3
    small_onnx(tmp_path / "m.onnx")
    for text in ("nosuch=1x300", "x=1x301", "x=1x300:int64"):
        with pytest.raises(InvalidInput, match="fits no input"):
            load_source(tmp_path / "m.onnx", inputs=[text])
    assert load_source(tmp_path / "m.onnx", inputs=["x=4x300"]).program.example["x"].shape == (4, 300)


# ---- every shape of a model


class Sums(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> dict[str, object]:
        return {"sum": a + b, "nested": (a * b, [a - b])}


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return torch.where(mask.unsqueeze(-1), self.embed(ids), 0.0)


class Totals(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, None, torch.Tensor, torch.Tensor]:
        return x.sum(), None, x > 0, x


class Scaled(nn.Module):
    def forward(self, x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        return x * factor


class Joined(nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.cat([x, y], 1), x.reshape(x.shape[0], -1)


class Repeats(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        start = torch.tensor(0)
        return torch._higher_order_ops.while_loop(lambda i, a: i < 3, lambda i, a: (i + 1, a.sin()), (start, x))[1]


class Resized(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.interpolate(x, scale_factor=2)


def recurrent(kind: type[nn.RNNBase], *, bidirectional: bool, batch_first: bool) -> nn.Module:
    return kind(4, 5, num_layers=2, bidirectional=bidirectional, batch_first=batch_first)


ROW, PAIR = torch.linspace(-1, 1, 4)[None], (torch.ones(1, 4), torch.full((1, 4), 2.0))
IDS, MASK = torch.arange(12).reshape(2, 6) % 10, torch.arange(12).reshape(2, 6) % 2 == 0
FORMS: dict[str, tuple[nn.Module, object, list[str], list[list[int | str]]]] = {
    "tuple": (Sums(), PAIR, [], [[1, 4]] * 3),
    "dict in another order": (Sums(), {"b": PAIR[1], "a": PAIR[0]}, [], [[1, 4]] * 3),
    "integers and booleans": (Masked(), (IDS, MASK), [], [[2, 6, 4]]),
    "batch and length vary": (
        Masked(), (IDS, MASK), ["ids=batch,max_length:int64", "mask=batch,max_length:bool"],
        [["batch", "max_length", 4]],
    ),
    "no dimensions, nothing, booleans, the input": (Totals(), (ROW,), [], [[], [1, 4], [1, 4]]),
    "an input without dimensions": (Scaled(), (ROW, torch.tensor(3.0)), [], [[1, 4]]),
    "sizes that add up": (
        Joined(), (torch.ones(2, 6, 4), torch.ones(2, 3, 4)), ["x=b,n,4", "y=b,m,4"],
        [["b", "output_0_1", 4], ["b", "output_1_1"]],
    ),
    "sizes that double": (Resized(), (torch.ones(1, 3, 8, 8),), ["1,3,height,width"], [[1, 3, "output_2", "output_3"]]),
    "a branch": (Branches(2.0), (torch.ones(3),), [], [[3]]),
    "a loop": (Repeats(), (ROW,), [], [[1, 4]]),
    "float64": (nn.Linear(4, 3).double(), (ROW.double(),), [], [[1, 3]]),
    "float16": (nn.Linear(4, 3).half(), (ROW.half(),), [], [[1, 3]]),
    **{
        f"{kind.__name__} {two=} {first=}": (
            recurrent(kind, bidirectional=two, batch_first=first), (torch.ones(3, 2, 4),), [],
            [[3, 2, 5 + 5 * two], *[[2 + 2 * two, 3 if first else 2, 5]] * (2 if kind is nn.LSTM else 1)],
        )
        for kind, two, first in ((nn.LSTM, True, True), (nn.LSTM, False, False), (nn.GRU, True, False),
                                 (nn.GRU, False, True), (nn.RNN, True, True))
    },
}  # fmt: skip


QUICK = ("dict in another order", "batch and length vary")


@pytest.mark.parametrize("form", [pytest.param(f, marks=[] if f in QUICK else pytest.mark.slow) for f in FORMS])
def test_a_module_of_any_shape_is_read_and_exported(form: str) -> None:
    module, example, inputs, outputs = FORMS[form]
    source = (module, example)
    program = load_source(source, inputs=inputs).program
    assert [list(s.shape) for s in program.signature.outputs] == outputs
    exported = export_program(source, inputs=inputs, cache=False)
    sample = next(iter(synthetic_data(program.signature, 3, example=program.example)))
    want, have = program.run(sample), exported.run(sample)
    rtol = 5e-3 if form == "float16" else 1e-5  # five roundings of half precision, a hundred of single
    for name, value in want.items():
        assert have[name].dtype == value.dtype
        np.testing.assert_allclose(have[name], value, rtol=rtol, atol=rtol)


@pytest.mark.parametrize(
    ("module", "example", "word"),
    [
        (Scaled(), (torch.zeros(1, 4, dtype=torch.complex64), torch.tensor(1.0)), "complex64"),
        (Scaled(), (ROW.bfloat16(), torch.tensor(1.0)), "BFloat16"),
        (Scaled(), ([ROW, ROW], torch.tensor(1.0)), "list of tensors"),
        (Scaled(), ({"x": ROW}, torch.tensor(1.0)), "dict"),
    ],
    ids=["complex", "bfloat16", "list", "dict"],
)
def test_what_cannot_be_deployed_is_said(module: nn.Module, example: object, word: str) -> None:
    with pytest.raises(InvalidInput, match=word):
        load_source((module, example))


class Fixed(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(2, 12)


@pytest.mark.parametrize("module", [Fixed(), nn.LSTM(4, 5, batch_first=True)], ids=["reshape", "lstm"])
@pytest.mark.slow
def test_a_size_that_the_model_fixes_is_named(module: nn.Module) -> None:
    with pytest.raises(InvalidInput, match=r"length = 4.*test_sources\.py:|length as dynamic.*constant") as caught:
        export_program((module, (torch.zeros(2, 3, 4),)), inputs=["2,length,4"], cache=False)
    assert "--input" in caught.value.hint


def test_a_program_in_memory_is_called_after_its_module(net: Net) -> None:
    assert load_source((net, (torch.zeros(1, 1, 8, 8),))).program.name == "net"


BODY = "(float[4] s, float[4] e) => (float[4] t, float[4] o) { t = Add(s, e) o = Identity(t) }"
CONTROL = {
    "If": "g (bool c, float[4] x) => (float[4] y) { y = If(c) <then_branch = a () => (float[4] p) { p = Abs(x) }, "
    "else_branch = b () => (float[4] q) { q = Neg(x) }> }",
    "Loop": "g (float[4] x) => (float[4] y) { n = Constant<value_int=3>() t = Constant<value = bool {1}>() "
    "y = Loop(n, t, x) <body = b (int64 i, bool go, float[4] a) => (bool on, float[4] z) "
    "{ on = Identity(go) z = Tanh(a) }> }",
    "Scan": f"g (float[4] x, float[5,4] many) => (float[4] y, float[5,4] z) "
    f"{{ y, z = Scan<num_scan_inputs = 1, body = b {BODY}>(x, many) }}",
}


@pytest.mark.parametrize("operator", CONTROL)
def test_control_flow_in_onnx_is_inspected_and_estimated(operator: str, tmp_path: Path) -> None:
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 18]> {CONTROL[operator]}')
    onnx.save(model, tmp_path / "m.onnx")
    found = inspect_model(tmp_path / "m.onnx", cache=False)
    assert operator in [row["op_type"] for row in found["operators"]]
    estimate = estimate_model(tmp_path / "m.onnx", target="raspberry_pi_4", cache=False)
    assert operator in [row.op_type for row in estimate.operators]
    low, high = estimate.latency_interval_s
    assert 0 < low <= estimate.latency_s <= high


def test_names_of_varying_dimensions_may_hold_an_x() -> None:
    assert parse_input("ids=batch,max_length:int64").shape == ("batch", "max_length")
    assert parse_input("1, 3, height, width").shape == (1, 3, "height", "width")
    assert parse_input("factor=scalar").shape == ()
    for text in ("1,,3", ",", "1x3,4", "a b,3"):
        with pytest.raises(InvalidInput, match="--input"):
            parse_input(text)
