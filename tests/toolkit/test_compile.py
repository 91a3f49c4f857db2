"""The whole road on the built-in example: what a bundle holds, that it replays, resumes and survives."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import toolkit
from targets.errors import InvalidInput, UnknownName
from targets.target import load_target, target_names
from toolkit.bundle.atomic import replacing_folder
from toolkit.bundle.bundle import Bundle, open_bundle
from toolkit.bundle.layout import TIMINGS
from toolkit.cli.main import main
from toolkit.verify.golden import verify_bundle


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a bundle but the one that may differ."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != TIMINGS
    }


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return toolkit.compile(target="jetson_nano", output=tmp_path_factory.mktemp("nano") / "bundle")


def test_a_bundle_holds_what_design_says(nano: Bundle) -> None:
    names = {p.name for p in nano.path.iterdir()}
    assert names == {
        "manifest.json",
        "timings.json",
        "model.onnx",
        "golden.npz",
        "recipe.yaml",
        "report.html",
        "report.json",
        "sbom.cdx.json",
        "build_engine.sh",
    }
    assert set(nano.manifest["sha256"]) == names - {"manifest.json", "timings.json"}
    assert nano.manifest["stack"] == "jetson_nano/tensorrt-fp16"
    for name, data in content(nano.path).items():
        assert os.getcwd().encode() not in data, f"{name} holds a path of this machine"
        assert str(nano.path).encode() not in data, f"{name} holds a path of this machine"


def test_a_bundle_answers_like_the_network_and_keeps_its_accuracy(nano: Bundle) -> None:
    from toolkit.models import digits

    assert verify_bundle(nano).passed
    _, (images, labels) = digits.split()
    answers = [int(nano(image[None])["output"].argmax()) for image in images]
    assert np.mean(np.array(answers) == labels) >= 0.98  # the float network reaches 0.9889 on these 360 images


def test_a_bundle_refuses_arrays_of_another_shape(nano: Bundle) -> None:
    with pytest.raises(InvalidInput, match="shape"):
        nano(np.zeros((1, 1, 9, 9), np.float32))
    with pytest.raises(InvalidInput, match="float32"):
        nano(np.zeros((1, 1, 8, 8)))
    with pytest.raises(InvalidInput, match="image"):
        nano({"picture": np.zeros((1, 1, 8, 8), np.float32)})


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "report.html", "recipe.yaml"])
def test_a_changed_byte_is_found(nano: Bundle, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in nano.path.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(InvalidInput, match=name):
        open_bundle(copy)


def test_a_manifest_may_not_point_outside(nano: Bundle, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    manifest = dict(nano.manifest)
    manifest["sha256"] = {"../secret": "0" * 64}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InvalidInput, match="outside"):
        open_bundle(copy)


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": {}},
        {"artifact": {"file": "../other/model.onnx", "format": "onnx", "complete": True, "remaining": ""}},
        {"backend": "shell"},
        {"sha256": ["model.onnx"]},
        {"signature": {"inputs": []}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_manifest_that_leaves_things_out_is_refused(nano: Bundle, tmp_path: Path, change: dict[str, object]) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in nano.path.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / "manifest.json").write_text(json.dumps({**nano.manifest, **change}))
    with pytest.raises(InvalidInput):
        open_bundle(copy)


def test_a_file_that_the_compile_did_not_write_is_found(nano: Bundle, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in nano.path.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / "model.bin").write_bytes(b"stranger")
    with pytest.raises(InvalidInput, match=r"model\.bin"):
        open_bundle(copy)


@pytest.mark.slow
def test_a_recipe_from_memory_asks_for_the_model(tmp_path: Path) -> None:
    import torch

    network = torch.nn.Linear(4, 2).eval()
    bundle = toolkit.compile((network, (torch.zeros(1, 4),)), target="jetson_nano", output=tmp_path / "b")
    assert main(["compile", "-c", str(bundle.path / "recipe.yaml"), "-o", str(tmp_path / "again"), "-q"]) == 2
    assert not (tmp_path / "again").exists()


@pytest.mark.slow
def test_a_forward_that_draws_random_numbers_is_refused(tmp_path: Path) -> None:
    import torch

    class Noisy(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.dropout(x, 0.5, True)

    with pytest.raises(InvalidInput, match="Export") as caught:
        toolkit.compile((Noisy(), (torch.ones(1, 64),)), target="jetson_nano", output=tmp_path / "b")
    assert "random" in caught.value.hint


@pytest.mark.slow
def test_the_worst_output_decides_and_scalars_keep_their_shape(tmp_path: Path) -> None:
    import torch

    class Two(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x * 1e7, x.sum()

    bundle = toolkit.compile((Two(), (torch.ones(1, 8),)), target="desktop_cpu", output=tmp_path / "b")
    assert bundle.golden[0].outputs["output_1"].shape == ()
    assert verify_bundle(bundle).passed
    golden = {k: (-v if k.endswith("output/output_1") else v) for k, v in np.load(bundle.path / "golden.npz").items()}
    np.savez(bundle.path / "golden.npz", **golden)
    result = verify_bundle(bundle)
    assert not result.passed
    assert result.sqnr_db < 0


def test_a_link_to_a_bundle_is_written_through(tmp_path: Path, nano: Bundle) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    toolkit.compile(target="jetson_nano", output=tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert content(tmp_path / "real") == content(nano.path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["link", "real"]


@pytest.mark.slow
def test_the_folder_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = (
        "import torch\nclass Small(torch.nn.Module):\n    def forward(self, x):\n        return torch.relu(x) * 2\n"
        "def build():\n    return Small(), (torch.ones(1, 4),)\n"
    )
    arguments = ["compile", "nets_here:build", "-t", "jetson_nano", "-o", "b", "-q"]
    command = [sys.executable, "-m", "toolkit.cli.main", *arguments]
    found = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "nets_here.py").write_text(source)
        environment = {**os.environ, "TOOLKIT_CACHE": str(folder / "cache")}
        subprocess.run(command, cwd=folder, env=environment, check=True)
        found.append(content(folder / "b"))
    assert found[0] == found[1]
    assert b"nets_here.py:4" in found[0]["report.json"]


@pytest.mark.slow
def test_the_recipe_replays_to_the_same_bytes(nano: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cached in (True, False):
        again = tmp_path / f"again-{cached}"
        flags = [] if cached else ["--no-cache"]
        assert main(["compile", "--config", str(nano.path / "recipe.yaml"), "-o", str(again), "-q", *flags]) == 0
        assert content(again) == content(nano.path)


def test_an_equal_compile_applies_no_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nano: Bundle) -> None:
    from passes import running

    def refuse(*_: object) -> None:
        raise AssertionError("a pass was applied although everything was cached")

    monkeypatch.setattr(running, "_step", refuse)
    again = toolkit.compile(target="jetson_nano", output=tmp_path / "again")
    assert content(again.path) == content(nano.path)


@pytest.mark.slow
def test_a_killed_compile_leaves_no_bundle_and_the_next_is_the_same(nano: Bundle, tmp_path: Path) -> None:
    environment = {**os.environ, "TOOLKIT_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "toolkit.cli.main", "compile", "-t", "jetson_nano", "-o", "out", "-q"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment)
    deadline = time.monotonic() + 120
    entries: list[Path] = []
    while len(entries) < 2 and process.poll() is None and time.monotonic() < deadline:
        entries = list((tmp_path / "cache").glob("*/*/entry.json"))
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert entries, "the compile ended before its first pass"
    assert not (tmp_path / "out").exists()
    subprocess.run(command, cwd=tmp_path, env=environment, check=True)
    assert content(tmp_path / "out") == content(nano.path)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InvalidInput, match="not a bundle") as caught:
        toolkit.compile(target="jetson_nano", output=tmp_path)
    assert "--force" in caught.value.hint
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_failure_while_writing_keeps_the_old_bundle(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    target.mkdir()
    (target / "manifest.json").write_text("old")

    def fail() -> None:
        with replacing_folder(target, marker="manifest.json") as scratch:
            (scratch / "manifest.json").write_text("new")
            raise OSError(28, "No space left on device")

    with pytest.raises(InvalidInput, match="No space left"):
        fail()
    assert (target / "manifest.json").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_without_data_int8_is_skipped_and_says_why(tmp_path: Path) -> None:
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU())
    bundle = toolkit.compile((network, (torch.zeros(1, 1, 8, 8),)), target="raspberry_pi_4", output=tmp_path / "b")
    last = next(p for p in bundle.manifest["proofs"] if p["pass"] == "QuantizeInt8")
    assert (last["pass"], last["decision"]) == ("QuantizeInt8", "skipped")
    assert "--data" in last["reason"]
    assert {p["data"] for p in bundle.manifest["proofs"] if p["decision"] != "skipped"} == {"synthetic"}


@pytest.mark.slow
def test_a_lossy_pass_over_budget_is_reverted(tmp_path: Path) -> None:
    from passes.context import Budget

    bundle = toolkit.compile(target="raspberry_pi_4", budget=Budget(min_sqnr_db=70.0), output=tmp_path / "b")
    last = next(p for p in bundle.manifest["proofs"] if p["pass"] == "QuantizeInt8")
    assert (last["pass"], last["decision"]) == ("QuantizeInt8", "reverted")
    assert "70 dB" in last["reason"]


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(UnknownName) as caught:
        toolkit.compile(target="jetson_nan")
    assert "jetson_nano" in caught.value.hint
    with pytest.raises(UnknownName):
        toolkit.compile(target="jetson_nano", stack="tensorrt-int9")
    with pytest.raises(UnknownName):
        toolkit.compile(target="jetson_nano", recipe="int9", output=tmp_path / "b")


def outline(bundle: Bundle) -> str:
    """One operator a line with its tensors: what a refactor must not change."""
    import onnx_ir as ir

    model = ir.load(bundle.path / "model.onnx")
    lines = [f"opset {model.opset_imports['']}, {bundle.manifest['stack']}"]
    for node in model.graph:
        inputs = " ".join(_shown(v) for v in node.inputs if v is not None)
        lines.append(f"{node.op_type}({inputs}) -> {' '.join(_shown(v) for v in node.outputs)}")
    return "\n".join(lines) + "\n"


def _shown(value: object) -> str:
    dtype = value.dtype.name.lower() if value.dtype is not None else "?"  # type: ignore[attr-defined]
    shape = "x".join(map(str, value.shape.dims)) if value.shape is not None else "?"  # type: ignore[attr-defined]
    return f"{dtype}[{shape}]"


@pytest.mark.slow
@pytest.mark.parametrize("target", target_names())
def test_every_target_gets_its_bundle(target: str, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    bundle = toolkit.compile(target=target, output=tmp_path / "bundle")
    assert verify_bundle(bundle).passed
    stack = load_target(target).stack()
    steps = [proof["pass"] for proof in bundle.manifest["proofs"]]
    if stack.quantization:
        packed = ["PackWeights"] if stack.runtime == "onnxruntime" else []
        assert steps[steps.index("QuantizeInt8") :] in (
            ["QuantizeInt8", "CorrectBias", *packed],
            ["QuantizeInt8", "StoreInBytes", "CorrectBias", *packed],
        )
    if stack.precision == "fp16" and not stack.loads_float32:
        assert steps[-1] == "CastFloat16"
    last = next(p for p in bundle.manifest["proofs"] if p["pass"] == "QuantizeInt8" or p["pass"] == steps[-1])
    assert last["decision"] == "kept" or "predicted to be slower" in last["reason"]
    expected = Path(__file__).parents[1] / "replay" / f"digits-{target}.txt"
    text = outline(bundle)
    if pytestconfig.getoption("--accept"):
        expected.parent.mkdir(exist_ok=True)
        expected.write_text(text)
    assert text == expected.read_text(), "the compiled graph changed; `pytest --accept` takes the new one"
