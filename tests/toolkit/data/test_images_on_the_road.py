"""A folder of images through compile, recipe, report and run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper
from PIL import Image

from targets.errors import InvalidInput, UsageError
from toolkit.bundle.bundle import open_bundle
from toolkit.cli.main import main
from toolkit.driver import compile_model

STATED = "resize=10,crop=center,mean=127,std=128,color=bgr"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model of 8x8 images, and twelve images of 10x12 in two classes, one dark and one light."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((16, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["c"], kernel_shape=[3, 3], pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 16])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), "net.onnx")
    for kind, low in (("dark", 0), ("light", 128)):
        Path("photos", kind).mkdir(parents=True)
        for i in range(6):
            Image.fromarray(rng.integers(low, low + 128, (10, 12, 3), dtype=np.uint8)).save(f"photos/{kind}/{i}.png")


def by_hand(file: str) -> np.ndarray:
    """STATED, written out for an image of 10x12, whose shorter side is 10 already."""
    pixels = np.asarray(Image.open(file))[1:9, 2:10, ::-1]
    return ((pixels.astype(np.float32) - 127) / 128).transpose(2, 0, 1)[None]


@pytest.mark.slow
def test_compile_replay_and_run(capsys: pytest.CaptureFixture[str]) -> None:
    compiled = ["compile", "net.onnx", "-t", "desktop_cpu", "-q", "--data", "photos", "--preprocess", STATED]
    assert main([*compiled, "-o", "first"]) == 0
    model = open_bundle("first").report["model"]
    assert model["data"] == "photos"
    assert model["preprocessing"] == "resize=10,crop=center,color=bgr,mean=127,std=128"
    assert any(proof["metric"] for proof in open_bundle("first").report["proofs"]), "folders are classes"
    assert yaml.safe_load(Path("first/recipe.yaml").read_text())["preprocess"] == STATED

    assert main(["compile", "--config", "first/recipe.yaml", "-o", "second", "-q", "--no-cache"]) == 0
    for name in ("recipe.yaml", "report.json", "golden.npz", "manifest.json"):
        assert Path("first", name).read_bytes() == Path("second", name).read_bytes()

    golden = open_bundle("first").golden
    np.testing.assert_allclose(golden[0].inputs["image"], by_hand("photos/dark/0.png"), rtol=1e-6)
    np.testing.assert_allclose(golden[1].inputs["image"], by_hand("photos/light/0.png"), rtol=1e-6)

    capsys.readouterr()
    assert main(["run", "first", "photos", "--json", "-q"]) == 0
    answers = np.array(json.loads(capsys.readouterr().out)["outputs"]["scores"])
    assert len(answers) == 12
    np.testing.assert_allclose(answers[1], golden[1].outputs["scores"][0], rtol=1e-6)
    assert main(["run", "first", "photos/light/0.png", "--json", "-q"]) == 0
    np.testing.assert_allclose(json.loads(capsys.readouterr().out)["outputs"]["scores"], answers[1:2], rtol=1e-6)
    np.savez("images.npz", image=by_hand("photos/light/0.png"))
    assert main(["run", "first", "images.npz", "--json", "-q"]) == 0, "the recorded preprocessing is for images alone"
    np.testing.assert_allclose(json.loads(capsys.readouterr().out)["outputs"]["scores"], answers[1:2], rtol=1e-6)
    assert main(["run", "first", "photos", "--json", "-q", "--preprocess", "unit,resize=stretch"]) == 0
    assert np.abs(np.array(json.loads(capsys.readouterr().out)["outputs"]["scores"]) - answers).max() > 0.1


def test_what_is_missing_or_would_do_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", "net.onnx", "-t", "desktop_cpu", "-q", "--data", "photos"]) == 5
    assert "--preprocess imagenet" in capsys.readouterr().err
    np.save("images.npy", np.zeros((3, 3, 8, 8), np.float32))
    command = ["compile", "net.onnx", "-t", "desktop_cpu", "-q", "--data", "images.npy", "-o", "b"]
    assert main([*command, "--preprocess", "unit"]) == 2
    assert "as it is" in capsys.readouterr().err
    Path("toolkit.yaml").write_text("preprocess: unit\n")
    assert main(command) == 2
    assert main([*command, "--preprocess", ""]) == 0
    assert "preprocess" not in yaml.safe_load(Path("b/recipe.yaml").read_text())
    assert main(["run", "b", "photos", "-q"]) == 5
    assert main(["run", "b", "images.npy", "-q", "--preprocess", "unit"]) == 2


def test_in_python_the_same_in_one_call(tmp_path: Path) -> None:
    bundle = compile_model("net.onnx", target="desktop_cpu", data=tmp_path / "photos", preprocess=STATED, output="b")
    assert bundle.report["model"]["preprocessing"]
    with pytest.raises(InvalidInput, match="nothing says how"):
        compile_model("net.onnx", target="desktop_cpu", validation="photos")
    with pytest.raises(UsageError, match="as it is"):
        compile_model("net.onnx", target="desktop_cpu", data=np.zeros((2, 3, 8, 8), np.float32), preprocess="unit")


@pytest.mark.slow
def test_a_zoo_model_brings_data_of_its_own() -> None:
    bundle = compile_model("digits", target="desktop_cpu", preprocess="unit", output="digits")
    assert bundle.report["model"]["preprocessing"] == ""
