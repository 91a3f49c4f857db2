"""`toolkit explain`: a bundle beside its float model, as a user meets it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

import toolkit
from toolkit.cli.main import main
from toolkit.explaining import explain_bundle
from toolkit.models import entry

pytestmark = pytest.mark.slow

PI = "raspberry_pi_4"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toolkit.compile(target=PI, output=tmp_path_factory.mktemp("explain") / "digits").path


def test_every_layer_is_named_with_its_line_and_what_float_would_cost(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", str(bundle), "--samples", "4"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"3\d\.\d dB against the float model on 4 samples", printed)
    assert "toolkit/models/digits.py:" in printed
    assert "µs" in printed
    assert "nothing stands out" in printed


def test_the_document_adds_up(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(bundle), "--samples", "4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == "toolkit.explain/1"
    assert sum(layer["share_of_noise"] for layer in found["layers"]) == pytest.approx(1)
    assert found["culprit"] == min(found["layers"], key=lambda layer: layer["alone_sqnr_db"])["layer"]
    assert all(layer["alone_sqnr_db"] >= found["sqnr_db"] for layer in found["layers"])
    assert "QuantizeInt8" in [p["pass"] for p in found["passes"]]
    assert {layer["module"] for layer in found["layers"]} >= {"stem.0", "block1.0", "classify"}


def test_the_worst_layer_is_saved_alone_and_runs(bundle: Path, tmp_path: Path) -> None:
    found = explain_bundle(bundle, samples=2, save=tmp_path / "layer")
    assert found.culprit is not None
    session = onnxruntime.InferenceSession(tmp_path / "layer" / "layer.onnx")
    arrays = dict(np.load(tmp_path / "layer" / "inputs.npz"))
    expected = arrays.pop("expected")
    arrays["quantized"] = np.array(False)
    np.testing.assert_allclose(session.run(None, arrays)[0], expected, atol=1e-5)
    arrays["quantized"] = np.array(True)
    assert 0 < np.abs(session.run(None, arrays)[0] - expected).max() < 0.2 * np.abs(expected).max()
    graph = onnx.load(tmp_path / "layer" / "layer.onnx").graph
    assert len(graph.node) == 1, "one choice between two forms of one layer"


def test_a_float_bundle_has_nothing_to_explain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = toolkit.compile(target="desktop_cpu", stack="onnxruntime-fp32", output=tmp_path / "float").path
    assert main(["explain", str(made)]) == 5
    assert "nothing to explain" in capsys.readouterr().err


def test_what_lived_in_memory_has_to_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digits = entry("digits")
    model, samples = digits.build(), digits.calibration()
    made = toolkit.compile(model, target=PI, data=samples.take(8), output=tmp_path / "memory").path
    assert main(["explain", str(made)]) == 5
    printed = capsys.readouterr().err
    assert "in memory" in printed
    assert "--model" in printed
    found = explain_bundle(made, model=model, data=samples.take(8))
    assert found.effects.all_db > 20


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(tmp_path)]) == 5
    assert "not a bundle" in capsys.readouterr().err


def test_half_precision_is_told_as_what_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Weights are taken apart, rounded activations are not; the first line is the bundle's own."""
    made = toolkit.compile(target="desktop_gpu", stack="h100-tensorrt-fp16", output=tmp_path / "half").path
    found = explain_bundle(made, samples=4)
    capsys.readouterr()
    assert main(["explain", str(made), "--samples", "4"]) == 0
    printed = capsys.readouterr().out
    assert f"{found.sqnr_db:.1f} dB against the float model" in printed.splitlines()[0]
    assert ("is not taken apart" in printed) == found.unexplained


def test_a_source_that_was_changed_since_is_said_to_be_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exported = toolkit_export(tmp_path)
    samples = np.random.default_rng(0).standard_normal((4, 1, 8, 8)).astype(np.float32)
    np.savez("samples.npz", image=samples)
    made = toolkit.compile("net.onnx", target=PI, data="samples.npz", output=tmp_path / "b").path
    weights = exported.graph.initializer[0]
    weights.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weights) * 1.7, weights.name))
    onnx.save(exported, "net.onnx")
    assert main(["explain", str(made)]) == 5
    assert "was changed since" in capsys.readouterr().err


def test_a_source_that_was_moved_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    toolkit_export(tmp_path)
    samples = np.random.default_rng(0).standard_normal((4, 1, 8, 8)).astype(np.float32)
    np.savez("samples.npz", image=samples)
    made = toolkit.compile("net.onnx", target=PI, data="samples.npz", output=tmp_path / "b").path
    (tmp_path / "net.onnx").rename(tmp_path / "moved.onnx")
    assert main(["explain", str(made)]) == 5
    assert "--model and --data say where" in capsys.readouterr().err
    assert main(["explain", str(made), "--model", "moved.onnx", "--samples", "2"]) == 0


def toolkit_export(folder: Path) -> onnx.ModelProto:
    """The built-in network as `net.onnx`."""
    assert main(["export", "digits", "-o", str(folder / "net.onnx"), "-q"]) == 0
    return onnx.load(folder / "net.onnx")
