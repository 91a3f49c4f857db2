"""A file that could run code, reach beyond its folder or is damaged is refused; a pickle is loaded on trust alone."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import zipfile
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from targets.errors import InvalidInput
from tests.toolkit.small_models import Net, seeded_net, small_onnx
from toolkit.sources import load_source


@pytest.fixture(scope="module")
def net() -> Net:
    return seeded_net()


# ---- ONNX


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


# ---- pickles


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


def test_pickle_is_loaded_with_trust(tmp_path: Path) -> None:
    torch.save(nn.Linear(4, 2), tmp_path / "m.pt")
    program = load_source(tmp_path / "m.pt", trust=True, inputs=["1x4"]).program
    assert program.signature.outputs[0].shape == (1, 2)


def test_weights_alone_are_not_a_model(net: Net, tmp_path: Path) -> None:
    torch.save(net.state_dict(), tmp_path / "w.pt")
    with pytest.raises(InvalidInput, match="weights without the network"):
        load_source(tmp_path / "w.pt")


# ---- archives of torch.export


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


def test_damaged_archive(tmp_path: Path) -> None:
    (tmp_path / "m.pt2").write_bytes(b"PK\x03\x04 not an archive")
    with pytest.raises(InvalidInput, match="damaged archive"):
        load_source(tmp_path / "m.pt2")


# ---- TorchScript


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
