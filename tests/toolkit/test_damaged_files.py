"""Randomly damaged files: every one is used or refused in our words; none ends in an internal error, a crash or a hang.

Half of the archives are damaged inside, member by member, since the checksum of an archive finds everything else.
"""

from __future__ import annotations

import faulthandler
import resource
import shutil
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from toolkit.cli.main import main
from toolkit.rng import generator

FEW = {"onnx": 60, "external": 30, "bundle": 40, "data": 20, "yaml": 30, "pt": 10, "pt2": 10}
MANY = {"onnx": 300, "external": 150, "bundle": 200, "data": 100, "yaml": 150, "pt": 50, "pt2": 50}

LONGEST_S, MOST_BYTES = 120, 8 * 2**30
"""No file may keep us longer, or make us ask for more memory."""

TEXT = """<ir_version: 8, opset_import: ["" : 18]>
g (float[batch,1,8,8] x, bool c) => (float[batch,3] y) {
    h = Conv<pads=[1,1,1,1]>(x, k, b)
    r = Relu(h)
    p = GlobalAveragePool(r)
    s = Constant<value_ints=[0,4]>()
    f = Reshape(p, s)
    z = Gemm(f, w)
    n = Constant<value_int=3>()
    t = Constant<value = bool {1}>()
    l = Loop(n, t, z) <body = body (int64 i, bool go, float[batch,3] a) => (bool on, float[batch,3] d) {
        on = Identity(go)
        d = Tanh(a)
    }>
    y = If(c) <then_branch = yes () => (float[batch,3] u) { u = Neg(l) },
               else_branch = no () => (float[batch,3] v) { v = Identity(l) }>
}"""
WEIGHTS = {"k": (4, 1, 3, 3), "b": (4,), "w": (4, 3)}


@pytest.fixture(autouse=True)
def _bounded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A loop is stopped after a second, memory ends somewhere, and a hang ends the run with a trace."""
    monkeypatch.setattr("passes.onnxruntime.LONGEST_RUN_S", 1.0)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MOST_BYTES, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    faulthandler.cancel_dump_traceback_later()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.layer(x))


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One small file or folder of each kind."""
    folder = tmp_path_factory.mktemp("originals")
    model = onnx.parser.parse_model(TEXT)
    rng = np.random.default_rng(0)
    for name, shape in WEIGHTS.items():
        model.graph.initializer.append(numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name))
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    (folder / "external").mkdir()
    apart = onnx.load(folder / "m.onnx")  # saving moves the weights out of the model in memory, too
    onnx.save(apart, folder / "external" / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    module, x = Net().eval(), torch.zeros(1, 4)
    torch.jit.save(torch.jit.trace(module, x), folder / "m.pt")
    torch.export.save(torch.export.export(module, (x,)), folder / "m.pt2")
    np.savez(folder / "data.npz", x=np.zeros((4, 1, 8, 8), np.float32), c=np.zeros(4, bool))
    plain = TEXT.replace(", bool c", "").partition("    n = ")[0].replace("z = Gemm", "y = Gemm") + "}"
    small = onnx.parser.parse_model(plain)
    small.graph.initializer.extend(model.graph.initializer)
    (folder / "plain.onnx").write_bytes(small.SerializeToString())
    np.savez(folder / "plain.npz", x=np.zeros((4, 1, 8, 8), np.float32))
    arguments = ["compile", str(folder / "plain.onnx"), "-t", "desktop_cpu", "--data", str(folder / "plain.npz")]
    assert main([*arguments, "-o", str(folder / "bundle"), "-q"]) == 0
    return folder


# ---- damage


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Cut off, shortened in the middle, or with one, five or twenty bytes changed."""
    data = bytearray(content)
    kind = int(rng.integers(5))
    if kind == 0:
        return bytes(data[: rng.integers(len(data))])
    if kind == 1:
        start = int(rng.integers(len(data)))
        del data[start : start + int(rng.integers(1, 200))]
        return bytes(data)
    count, reach = {2: (1, len(data)), 3: (20, len(data)), 4: (5, min(600, len(data)))}[kind]
    for place in rng.integers(reach, size=count):
        data[place] = rng.integers(256)
    return bytes(data)


def damaged_archive(content: bytes, rng: np.random.Generator) -> bytes:
    """The archive damaged as it lies, or one of its members with a checksum that fits."""
    if rng.integers(2):
        return damaged(content, rng)
    out = BytesIO()
    with zipfile.ZipFile(BytesIO(content)) as archive, zipfile.ZipFile(out, "w") as copy:
        members = [(name, archive.read(name)) for name in archive.namelist()]
        filled = [i for i, (_, data) in enumerate(members) if data]
        chosen = filled[int(rng.integers(len(filled)))]
        for i, (name, data) in enumerate(members):
            copy.writestr(name, damaged(data, rng) if i == chosen else data)
    return out.getvalue()


def change(path: Path, rng: np.random.Generator, how: Callable[[bytes, np.random.Generator], bytes] = damaged) -> None:
    path.write_bytes(how(path.read_bytes(), rng))


def pick(rng: np.random.Generator, *names: str) -> str:
    return names[int(rng.integers(len(names)))]


# ---- one damaged file of each kind, and the command that meets it


def _onnx(folder: Path, rng: np.random.Generator) -> list[str]:
    change(folder / "m.onnx", rng)
    return inspect_or_compile(folder / "m.onnx", folder, rng)


def _external(folder: Path, rng: np.random.Generator) -> list[str]:
    change(folder / "external" / pick(rng, "m.onnx", "w.bin"), rng)
    return inspect_or_compile(folder / "external" / "m.onnx", folder, rng)


def _bundle(folder: Path, rng: np.random.Generator) -> list[str]:
    name = pick(rng, "manifest.json", "manifest.json", "golden.npz", "model.onnx")
    change(folder / "bundle" / name, rng, damaged_archive if name == "golden.npz" else damaged)
    if name != "manifest.json" and rng.integers(2):
        rehash(folder / "bundle")
    return ["verify", str(folder / "bundle"), "-q"]


def _data(folder: Path, rng: np.random.Generator) -> list[str]:
    change(folder / "plain.npz", rng, damaged_archive)
    return compile_(folder / "plain.onnx", folder, "--data", str(folder / "plain.npz"))


def _yaml(folder: Path, rng: np.random.Generator) -> list[str]:
    change(folder / "bundle" / "recipe.yaml", rng)
    arguments = ["--data", str(folder / "plain.npz"), "-c", str(folder / "bundle" / "recipe.yaml")]
    return [*compile_(folder / "plain.onnx", folder, *arguments), *(["--dry-run"] if rng.integers(2) else [])]


def _pt(folder: Path, rng: np.random.Generator) -> list[str]:
    change(folder / "m.pt", rng, damaged_archive)
    return ["inspect", str(folder / "m.pt"), "--input", "1x4", "-q"]


def _pt2(folder: Path, rng: np.random.Generator) -> list[str]:
    change(folder / "m.pt2", rng, damaged_archive)
    return ["inspect", str(folder / "m.pt2"), "-q"]


def inspect_or_compile(model: Path, folder: Path, rng: np.random.Generator) -> list[str]:
    return compile_(model, folder) if rng.integers(3) == 0 else ["inspect", str(model), "-q"]


def compile_(model: Path, folder: Path, *more: str) -> list[str]:
    return ["compile", str(model), "-t", "desktop_cpu", "-o", str(folder / "out"), "-q", *more]


def rehash(bundle: Path) -> None:
    """Make the manifest agree with the damage, as somebody would who means harm."""
    import json

    from toolkit.bundle.hashes import hashes_of

    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps({**manifest, "sha256": hashes_of(bundle)}))


KINDS = {"onnx": _onnx, "external": _external, "bundle": _bundle, "data": _data, "yaml": _yaml, "pt": _pt, "pt2": _pt2}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "count"),
    [
        *(pytest.param(kind, count, id=f"{kind}-few") for kind, count in FEW.items()),
        *(pytest.param(kind, count, id=f"{kind}-many", marks=pytest.mark.slow) for kind, count in MANY.items()),
    ],
)
def test_a_damaged_file_is_used_or_refused(
    kind: str, count: int, originals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codes = Counter[int]()
    for i in range(count):
        folder = tmp_path / "case"
        shutil.copytree(originals, folder)
        arguments = KINDS[kind](folder, generator(i, f"damage {kind}"))
        faulthandler.dump_traceback_later(LONGEST_S, exit=True, file=sys.__stderr__)
        code = main(arguments)
        error = capsys.readouterr().err
        assert code in ((0, 1, 2, 3, 5) if kind == "yaml" else (0, 1, 3, 5)), f"{kind} {i}: {error}"
        assert "Traceback" not in error, f"{kind} {i}"
        assert (code in (0, 1)) or ("error: " in error and "next: " in error), f"{kind} {i}: {error}"
        codes[code] += 1
        shutil.rmtree(folder)
    assert codes[5] > count / 5, f"little damage was found: {codes}"
