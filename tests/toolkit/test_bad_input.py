"""What goes wrong for users: one message, a next step, the right exit code, no traceback, and old bundles untouched."""

from __future__ import annotations

import errno
import os
import pickle
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from passes.proof import Decision, Proof
from targets.errors import InvalidInput
from toolkit import cache
from toolkit.bundle import atomic
from toolkit.bundle.atomic import replacing_folder
from toolkit.cli.main import main
from toolkit.sources import load_source

HEAD = '<ir_version: 8, opset_import: ["" : 18]>\n'


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "bundle"
    assert main(["compile", "-t", "desktop_cpu", "-o", str(folder), "-q"]) == 0
    return folder


@pytest.fixture
def old(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A bundle where the output goes: every byte of it is the same afterwards, and nothing lies beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    folder = tmp_path / "build" / "bundle"
    shutil.copytree(made, folder)
    before = content(folder)
    yield folder
    assert content(folder) == before
    assert [p.name for p in folder.parent.iterdir()] == ["bundle"]


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def refused(old: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`toolkit compile` with these arguments is refused; returns what was said."""

    def compile_(*arguments: str | Path, code: int = 5) -> str:
        capsys.readouterr()
        assert main(["compile", *map(str, arguments), "-t", "desktop_cpu", "-o", str(old), "-q"]) == code
        return said(*capsys.readouterr())

    return compile_


def said(out: str, err: str) -> str:
    problem, step, *rest = err.splitlines()
    assert problem.startswith("error: ")
    assert step.startswith("  next: ")
    assert len(step) > len("  next: ") + 5
    assert rest == []
    assert out == ""
    assert "Traceback" not in err
    assert "internal error" not in err
    return err


def onnx_file(path: Path, text: str, head: str = HEAD, **weights: object) -> Path:
    """A model in onnx's text form; arrays become initializers. Not checked: some of them are wrong on purpose."""
    model = onnx.parser.parse_model(head + text)
    for name, value in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    path.write_bytes(model.SerializeToString())
    return path


LINEAR = "g (float[1,4] x) => (float[1,4] y) { y = MatMul(x, w) }"
EYE = np.eye(4, dtype=np.float32)


# ---- ONNX files


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file(refused: Callable[..., str], share: float) -> None:
    path = onnx_file(Path("m.onnx"), LINEAR, w=EYE)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    assert "m.onnx" in refused(path)


@pytest.mark.parametrize("location", ["/etc/hostname", "../secret.bin", "link.bin", "hard/../../secret.bin"])
def test_external_data_outside_the_folder(refused: Callable[..., str], location: str) -> None:
    Path("secret.bin").write_bytes(EYE.tobytes())
    Path("model/hard").mkdir(parents=True)
    Path("model/link.bin").symlink_to(Path("secret.bin").resolve())
    path = external(Path("model/m.onnx"), location)
    assert "outside the model's folder" in refused(path)


def test_external_data_in_a_function_is_looked_at_too(refused: Callable[..., str]) -> None:
    path = external(Path("m.onnx"), "/etc/hostname")
    model = onnx.load(path, load_external_data=False)
    constant = helper.make_node("Constant", [], ["c"], value=model.graph.initializer[0])
    body = helper.make_function("mine", "F", ["a"], ["b"], [constant, helper.make_node("MatMul", ["a", "c"], ["b"])],
                                [helper.make_opsetid("", 18)])  # fmt: skip
    del model.graph.initializer[:]
    del model.graph.node[:]
    model.graph.node.append(helper.make_node("F", ["x"], ["y"], domain="mine"))
    model.opset_import.append(helper.make_opsetid("mine", 1))
    model.functions.append(body)
    path.write_bytes(model.SerializeToString())
    assert "outside the model's folder" in refused(path)


@pytest.mark.parametrize(("key", "value"), [("length", 3 << 30), ("offset", 1 << 40), ("length", -1)])
def test_external_data_that_claims_more_than_there_is(refused: Callable[..., str], key: str, value: object) -> None:
    Path("w.bin").write_bytes(EYE.tobytes())
    message = refused(external(Path("m.onnx"), "w.bin", **{key: value}))
    assert "'w'" in message
    assert str(value) in message


def external(path: Path, location: str, **entries: object) -> Path:
    onnx_file(path, LINEAR, w=EYE)
    model = onnx.load(path)
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        weight.external_data.add(key=key, value=str(value))
    path.write_bytes(model.SerializeToString())
    return path


WRONG = {
    "no outputs": ("g (float[4] x) => () { y = Relu(x) }", "outputs"),
    "a name given twice": ("g (float[4] x) => (float[4] y) { y = Relu(x) y = Abs(x) }", "y"),
    "a cycle": ("g (float[4] x) => (float[4] y) { a = Add(x, b) b = Relu(a) y = Abs(b) }", "not output of any"),
    "an unknown tensor": ("g (float[4] x) => (float[4] y) { y = Add(x, nowhere) }", "nowhere"),
    "an operator that is not one": ("g (float[4] x) => (float[4] y) { y = Frobnicate(x) }", "Frobnicate"),
    "types that do not fit": ("g (float[4] x, int64[4] i) => (float[4] y) { y = Add(x, i) }", "Add"),
    "an endless input": ("g (float[1000000,1000000] x) => (float y) { y = ReduceSum<keepdims=0>(x) }", "bytes"),
    "an endless tensor": (
        "g (float[9] x) => (float y) { s = Constant<value_ints=[1000000,1000000,9]>() "
        "e = Expand(x, s) y = ReduceSum<keepdims=0>(e) }",
        "elements",
    ),
    "a sequence": ("g (float[4] x) => (seq(float[4]) y) { y = SequenceConstruct(x) }", "not a tensor"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_graph_that_is_wrong(refused: Callable[..., str], what: str) -> None:
    text, word = WRONG[what]
    assert word in refused(onnx_file(Path("m.onnx"), text))


def test_a_graph_from_the_future(refused: Callable[..., str]) -> None:
    message = refused(onnx_file(Path("m.onnx"), LINEAR, HEAD.replace("18", "99"), w=EYE))
    assert "opset 99" in message
    assert "at most" in message
    assert "99" in refused(onnx_file(Path("m.onnx"), LINEAR, HEAD.replace("version: 8", "version: 99"), w=EYE))


def test_a_loop_without_end_is_stopped(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("passes.onnxruntime.LONGEST_RUN_S", 0.1)
    text = (
        "g (float[4] x) => (float[4] y) { n = Constant<value_int=9223372036854775807>() c = Constant<value_int=1>() "
        "t = Cast<to=9>(c) y = Loop(n, t, x) <body = b (int64 i, bool go, float[4] a) => (bool on, float[4] z) "
        "{ on = Identity(go) z = Sin(a) }> }"
    )
    assert "no answer within 0.1 s" in refused(onnx_file(Path("m.onnx"), text))


# ---- operators


MINE = '<ir_version: 8, opset_import: ["" : 18, "mine" : 1]>\n'
CUSTOM = "g (float[1,4] x) => (float[1,4] y) { h = MatMul(x, w) y = mine.Sharpen(h) }"


def test_a_custom_operator_is_named_with_the_way_out(
    refused: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = onnx_file(Path("m.onnx"), CUSTOM, MINE, w=EYE)
    message = refused(path, code=3)
    assert "mine:Sharpen" in message
    assert "standard operators" in message
    assert main(["inspect", str(path), "--json", "-q"]) == 0, "what is in it can be told all the same"
    assert "Sharpen" in capsys.readouterr().out


def test_a_custom_operator_with_a_body_is_compiled(old: Path, tmp_path: Path) -> None:
    body = '\n<domain: "mine", opset_import: ["" : 18]>\nSharpen (a) => (b) { b = Mul(a, a) }\n'
    path = onnx_file(Path("m.onnx"), CUSTOM + body, MINE, w=EYE)
    assert main(["compile", str(path), "-t", "desktop_cpu", "-o", str(tmp_path / "new"), "-q"]) == 0
    made = onnx.load(tmp_path / "new" / "model.onnx")
    assert not [node for node in made.graph.node if node.domain == "mine"]


def test_an_operator_that_the_runtime_lacks_is_named(refused: Callable[..., str]) -> None:
    head = HEAD.replace("8,", "10,").replace("18", "20")
    text = 'g (uint8[9] x) => (uint8[a,b,c] y) { y = ImageDecoder<pixel_format="RGB">(x) }'
    assert "ImageDecoder" in refused(onnx_file(Path("m.onnx"), text, head), code=3)


# ---- weights


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_weight_that_diverged(refused: Callable[..., str], value: float, dtype: type) -> None:
    weight = np.eye(4, dtype=dtype)
    weight[2, 1] = value
    kind = "float" if dtype is np.float32 else "float16"
    message = refused(onnx_file(Path("m.onnx"), LINEAR.replace("float", kind), w=weight))
    assert "'w'" in message
    assert ("NaN" if np.isnan(value) else "infinity") in message


def test_nan_is_found_in_a_constant_of_a_branch(refused: Callable[..., str]) -> None:
    text = (
        "g (bool c, float[4] x) => (float[4] y) { y = If(c) <then_branch = t () => (float[4] p) "
        "{ k = Constant<value = float[1] {nan}>() p = Add(x, k) }, else_branch = e () => (float[4] q) "
        "{ q = Identity(x) }> }"
    )
    model = onnx.parser.parse_model(HEAD + text.replace("{nan}", "{1}"))
    inner = model.graph.node[0].attribute[0].g.node[0].attribute[0].t
    inner.CopyFrom(numpy_helper.from_array(np.array([np.nan], np.float32)))
    Path("m.onnx").write_bytes(model.SerializeToString())
    assert "'k'" in refused(Path("m.onnx"))


class Diverged(nn.Module):
    def __init__(self, value: float, *, buffer: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.register_buffer("mask", torch.zeros(4))
        with torch.no_grad():
            (self.mask if buffer else self.layer.weight[1])[2] = value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(self.layer(x) + self.mask, -1)


@pytest.mark.parametrize(
    ("value", "buffer", "name"),
    [(np.nan, False, "layer.weight"), (np.inf, False, "layer.weight"), (np.nan, True, "mask")],
)
@pytest.mark.parametrize("form", ["factory", "pt2", "torchscript"])
def test_a_module_that_diverged(
    refused: Callable[..., str], value: float, buffer: bool, name: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, x = Diverged(value, buffer=buffer).eval(), torch.zeros(1, 4)
    if form == "factory":
        monkeypatch.setitem(sys.modules, "diverged", type(sys)("diverged"))
        sys.modules["diverged"].build = lambda: (module, (x,))  # type: ignore[attr-defined]
        message = refused("diverged:build")
    elif form == "pt2":
        torch.export.save(torch.export.export(module, (x,)), "m.pt2")
        message = refused("m.pt2")
    else:
        torch.jit.save(torch.jit.trace(module, x), "m.pt")
        message = refused("m.pt", "--input", "1x4")
    assert name in message
    assert ("NaN" if np.isnan(value) else "infinity") in message


def test_an_attention_mask_of_minus_infinity_is_legal(tmp_path: Path) -> None:
    mask = np.array([0, 0, -np.inf, -np.inf], np.float32)
    path = onnx_file(tmp_path / "m.onnx", "g (float[1,4] x) => (float[1,4] y) { a = Add(x, m) y = Softmax(a) }", m=mask)
    answer = load_source(path).program.run({"x": np.zeros((1, 4), np.float32)})["y"]
    np.testing.assert_allclose(answer, [[0.5, 0.5, 0, 0]])
    module = Diverged(-np.inf, buffer=True)
    assert load_source((module, (torch.zeros(1, 4),))).program.signature.outputs[0].shape == (1, 4)


# ---- torch


class Runs:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("ran",)


def test_a_pickle_that_would_run_code(refused: Callable[..., str]) -> None:
    Path("m.pt").write_bytes(pickle.dumps(Runs()))
    message = refused("m.pt")
    assert "run code" in message
    assert "--trust" in message
    assert not Path("ran").exists()


FACTORIES = """
import torch
class Raises(torch.nn.Module):
    def forward(self, x):
        return x @ torch.zeros(7, 7)
class Draws(torch.nn.Module):
    def forward(self, x):
        return x + torch.randn(4)
class Counts(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
    def forward(self, x):
        self.seen.add_(1)
        return x + self.seen
class Chooses(torch.nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x + 1
        return x - 1
class Keeps(torch.nn.Module):
    def forward(self, x):
        return {"answer": x, "note": "text"}
def raises(): return Raises(), (torch.zeros(1, 4),)
def draws(): return Draws(), (torch.zeros(1, 4),)
def counts(): return Counts(), (torch.zeros(1, 4),)
def chooses(): return Chooses(), (torch.zeros(1, 4),)
def keeps(): return Keeps(), (torch.zeros(1, 4),)
def number(): return 3
def nothing(): return None
def triple(): return torch.nn.ReLU(), (torch.zeros(1),), "more"
def words(): return torch.nn.ReLU(), ("not a tensor",)
def shapeless(): return torch.nn.ReLU()
def misnamed(): return torch.nn.ReLU(), {"picture": torch.zeros(1)}
"""

NONSENSE = {
    "raises": ("user_nets.py:5", "cannot be multiplied"),
    "counts": ("state", "inputs alone"),
    "chooses": ("user_nets.py:18", "torch.cond"),
    "keeps": ("str", "return a tensor"),
    "number": ("int", "nn.Module"),
    "nothing": ("NoneType", "nn.Module"),
    "triple": ("tuple", "nn.Module"),
    "words": ("str", "tensors"),
    "shapeless": ("input shape", "--input"),
    "misnamed": ("picture", "input"),
    "missing": ("missing", "see what user_nets defines"),
}


@pytest.mark.parametrize("factory", NONSENSE)
def test_a_factory_that_gives_nonsense(refused: Callable[..., str], factory: str) -> None:
    Path("user_nets.py").write_text(FACTORIES)
    sys.modules.pop("user_nets", None)
    message = refused(f"user_nets:{factory}")
    for word in NONSENSE[factory]:
        assert word in message


def test_a_forward_that_draws_random_numbers(refused: Callable[..., str]) -> None:
    Path("user_nets.py").write_text(FACTORIES)
    sys.modules.pop("user_nets", None)
    assert "random" in refused("user_nets:draws", code=5)


# ---- data, names


@pytest.mark.parametrize(
    ("array", "word"),
    [
        (np.zeros((5, 1, 9, 9), np.float32), "shape"),
        (np.zeros((5, 64), np.float32), "shape"),
        (np.zeros((5, 1, 8, 8), np.int64), "float32"),
        (np.full((5, 1, 8, 8), np.nan, np.float32), "NaN"),
        (np.zeros((0, 1, 8, 8), np.float32), "sample"),
    ],
    ids=["shape", "rank", "dtype", "nan", "empty"],
)
def test_data_that_does_not_fit(refused: Callable[..., str], array: np.ndarray, word: str) -> None:
    np.save("data.npy", array)
    assert word in refused("digits", "--data", "data.npy")


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (["-t", "raspbery_pi_4"], "raspberry_pi_4"),
        (["-t", "raspberry_pi_4", "--stack", "tflite-int9"], "tflite-int8"),
        (["-t", "raspberry_pi_4", "--recipe", "flaot16"], "float16"),
        (["-t", "raspberry_pi_4", "--outptu", "x"], "--output"),
        (["digit", "-t", "raspberry_pi_4"], "digits"),
    ],
    ids=["target", "stack", "recipe", "flag", "model"],
)
def test_a_slip_of_the_pen(arguments: list[str], near: str, old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", *arguments, "-o", str(old), "-q"]) == 2
    message = said(*capsys.readouterr())
    assert near in message


# ---- where the bundle goes


def test_an_output_that_is_something_else(old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, file = tmp_path / "thesis", tmp_path / "notes.txt"
    folder.mkdir()
    (folder / "thesis.tex").write_text("years of work")
    file.write_text("years of notes")
    for target in (folder, file):
        assert main(["compile", "-t", "desktop_cpu", "-o", str(target), "-q"]) == 5
        assert "--force" in said(*capsys.readouterr())
    assert (folder / "thesis.tex").read_text() == "years of work"
    assert file.read_text() == "years of notes"


@pytest.mark.parametrize("place", ["/proc/bundle", "file/bundle", "x" * 300])
def test_an_output_that_cannot_be_written(place: str, old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").write_text("")
    assert main(["compile", "-t", "desktop_cpu", "-o", place, "-q"]) == 5
    message = said(*capsys.readouterr())
    assert "cannot write" in message
    assert "--output" in message


def limited(limit_bytes: int, *arguments: str, cache: Path) -> subprocess.CompletedProcess[str]:
    """The command where no file may grow beyond `limit_bytes`: what a full disk or a quota does."""

    def limit() -> None:
        import signal

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

    root = str(Path(__file__).parents[2])
    return subprocess.run(
        [sys.executable, "-m", "toolkit.cli.main", *arguments], preexec_fn=limit, capture_output=True, text=True,
        env={**os.environ, "TOOLKIT_CACHE": str(cache), "PYTHONPATH": root, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip


@pytest.mark.slow
def test_a_full_disk(old: Path, tmp_path: Path) -> None:
    done = limited(20_000, "compile", "-t", "desktop_cpu", "-o", str(old), "-q", cache=tmp_path / "cache")
    assert done.returncode == 5, done.stderr
    assert "cannot write" in done.stderr
    assert "space" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_full_disk_under_the_cache_loses_no_compile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setenv("TOOLKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache.os, "replace", full)
    store = cache.DiskCache(tmp_path / "cache")
    program = load_source().program
    proof = Proof(name="P", settings={}, kind="exact", decision=Decision.KEPT)
    store.store("ab" * 32, program, proof)
    store.store("cd" * 32, program, proof)
    monkeypatch.undo()
    (record,) = caplog.records
    assert "No space left" in record.getMessage()
    assert "next: " in record.getMessage()
    assert store.proof("ab" * 32) is None
    assert [p for p in (tmp_path / "cache").rglob("*") if p.is_file()] == []


@pytest.mark.parametrize("call", ["mkdtemp", "replace", "fsync"])
def test_a_disk_that_fills_while_a_bundle_is_put_in_place(
    call: str, old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic.tempfile if call == "mkdtemp" else atomic.os, call, full)
    with pytest.raises(InvalidInput, match="No space left"), replacing_folder(old, marker="manifest.json") as scratch:
        (scratch / "manifest.json").write_text("new")
