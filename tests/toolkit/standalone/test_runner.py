"""The runner as a Python program: the same answers as the command line's, and every refusal in one line."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import toolkit
from targets.target import shipped_stack, shipped_target
from toolkit.calibration.rows import COLUMNS, read_rows
from toolkit.cli.main import main as command_line
from toolkit.runner.__main__ import main

pytestmark = pytest.mark.slow

STACK = "desktop_cpu/onnxruntime-int8"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runner") / "digits"
    toolkit.compile("digits", target="desktop_cpu", stack=STACK, output=folder)
    return folder


@pytest.fixture
def image(bundle: Path, tmp_path: Path) -> Path:
    with np.load(bundle / "golden.npz") as golden:
        np.save(tmp_path / "image.npy", golden["0/input/image"])
    return tmp_path / "image.npy"


def test_it_answers_as_the_command_line_does(bundle: Path, image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line(["run", str(bundle), str(image), "--json"]) == 0
    want = json.loads(capsys.readouterr().out)
    assert main(["--bundle", str(bundle), str(image), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == want
    assert main(["--bundle", str(bundle), str(image)]) == 0
    assert capsys.readouterr().out.startswith("output: float32[1, 10]\n  sample 0: [9] ")


def test_images_are_read_where_a_preprocessing_is_stated(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(tmp_path / "digit.png")
    assert main(["--bundle", str(bundle), str(tmp_path / "digit.png"), "--preprocess", "unit", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["outputs"]["output"]
    np.save(tmp_path / "digit.npy", np.eye(8, dtype=np.float32)[None, None])
    assert main(["--bundle", str(bundle), str(tmp_path / "digit.npy"), "--json"]) == 0
    np.testing.assert_allclose(found, json.loads(capsys.readouterr().out)["outputs"]["output"])


def test_self_test_tells_other_answers(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--bundle", str(bundle), "--self-test"]) == 0
    assert "passed" in capsys.readouterr().out
    other = _with_other_answers(bundle, tmp_path / "other")
    assert main(["--bundle", str(other), "--self-test", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["passed"] is False


def _with_other_answers(bundle: Path, folder: Path) -> Path:
    """The bundle with golden answers of the opposite sign, and hashes that say so."""
    from toolkit.bundle.hashes import hashes_of

    folder.mkdir()
    for file in bundle.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    with np.load(folder / "golden.npz") as golden:
        arrays = {name: -golden[name] if "/output/" in name else golden[name] for name in golden.files}
    np.savez(folder / "golden.npz", **arrays)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "sha256": hashes_of(folder)}))
    return folder


def test_rows_are_those_that_calibrate_reads(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--bundle", str(bundle), "--bench", "4"]) == 0
    text = capsys.readouterr().out
    (row,) = csv.DictReader(io.StringIO(text))
    assert tuple(row) == COLUMNS
    table = bundle.parent / "rows.csv"
    table.write_text(text)
    found = read_rows(table, shipped_target("desktop_cpu"), shipped_stack(STACK))
    assert [(r.model, r.input_shape, r.path) for r in found.rows] == [("digits", "1x1x8x8", bundle / "model.onnx")]
    assert not found.set_aside


def test_one_inference_can_be_timed(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--bundle", str(bundle), "--bench", "1", "--json"]) == 0
    assert 0 < json.loads(capsys.readouterr().out)["latency_s"] < 1


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "give either an INPUT"),
        (["x.npy", "--self-test"], 2, "give either an INPUT"),
        (["--bench", "0"], 2, "count from one"),
        (["gone.npy"], 5, "cannot read data gone.npy"),
        (["--self-test", "--bundle", "gone"], 5, "gone is not a bundle"),
        (["wrong.npy"], 5, "image wants shape"),
        (["digit.png"], 5, "--preprocess"),
    ],
)
def test_refusals(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str], code: int, said: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    np.save("wrong.npy", np.zeros((1, 3, 8, 8), np.float32))
    Image.fromarray(np.eye(8, dtype=np.uint8)).save("digit.png")
    given = ["--json", *arguments]
    assert main(given if "--bundle" in given else ["--bundle", str(bundle), *given]) == code
    told = capsys.readouterr()
    assert said in told.err
    assert told.err.count("\n") == 2
    assert json.loads(told.out)["exit_code"] == code


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "report.json", "recipe.yaml"])
def test_a_changed_byte_is_told_with_its_file(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    for file in bundle.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    content = bytearray((tmp_path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / name).write_bytes(bytes(content))
    assert main(["--bundle", str(tmp_path), "--self-test"]) == 5
    assert f"{name} is not the file that was written" in capsys.readouterr().err


def test_it_stands_on_nothing_heavy(bundle: Path, image: Path) -> None:
    code = (
        "import sys; from toolkit.runner.__main__ import main; "
        f"assert main(['--bundle', {str(bundle)!r}, {str(image)!r}]) == 0; "
        f"assert main(['--bundle', {str(bundle)!r}, '--self-test']) == 0; "
        f"assert main(['--bundle', {str(bundle)!r}, '--bench', '1']) == 0; "
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"torch", "onnx", "onnx_ir", "pydantic", "typer", "yaml", "scipy", "sklearn", "rich", "tvm"}
