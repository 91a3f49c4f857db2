"""Networks that others published, as they published them: voice activity, file types, faces.

Needs the packages of README's block "real networks".
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import toolkit
from targets.errors import InvalidInput
from toolkit.rng import generator
from toolkit.verify.golden import verify_bundle

PACKAGES = ("silero_vad", "magika", "facenet_pytorch")
CPU_TARGETS = ("raspberry_pi_4", "desktop_cpu")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(find_spec(name) is None for name in PACKAGES), reason="README, block real-networks, installs them"
    ),
]

# The nets' own file, without the package around it, which imports torchvision.
MTCNN = """
import importlib.util, sys, types
from pathlib import Path
import torch

def _nets():
    home = Path(importlib.util.find_spec("facenet_pytorch").origin).parent
    for name in ("mtcnn_parts", "mtcnn_parts.utils", "mtcnn_parts.utils.detect_face"):
        sys.modules.setdefault(name, types.ModuleType(name))
    parts = sys.modules["mtcnn_parts.utils.detect_face"]
    parts.detect_face = parts.extract_face = None
    spec = importlib.util.spec_from_file_location("mtcnn_parts.mtcnn", home / "models" / "mtcnn.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

def pnet():
    return _nets().PNet().eval(), (torch.zeros(1, 3, 120, 120),)

def rnet():
    return _nets().RNet().eval(), (torch.zeros(1, 3, 24, 24),)

def onet():
    return _nets().ONet().eval(), (torch.zeros(1, 3, 48, 48),)
"""


def inside(package: str, path: str) -> Path:
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / path


@pytest.mark.parametrize("target", CPU_TARGETS)
def test_voice_activity_with_its_branches(target: str, tmp_path: Path) -> None:
    """An If that chooses one of two networks by the sample rate: fixed, one is left, with its LSTM."""
    bundle = toolkit.compile(
        inside("silero_vad", "data/silero_vad.onnx"),
        target=target,
        stack="onnxruntime-fp32",
        fixed=["sr=16000"],
        inputs=["input=1x576", "state=2x1x128"],
        output=tmp_path / "bundle",
    )
    operators = bundle.report["estimate"]["operators"]
    assert "LSTM" in [op["op_type"] for op in operators]
    assert "If_0" not in [op["name"] for op in operators], "those inside, which ask for the rank of a tensor, may stay"
    assert bundle.report["after"]["size_bytes"] < 0.6 * bundle.report["before"]["size_bytes"], (
        "the other branch is gone"
    )
    assert verify_bundle(bundle).passed

    import onnxruntime

    original = onnxruntime.InferenceSession(str(inside("silero_vad", "data/silero_vad.onnx")))
    sound = generator(0, "sound").normal(0, 0.1, (1, 576)).astype(np.float32)
    given = {"input": sound, "state": np.zeros((2, 1, 128), np.float32)}
    want = original.run(None, {**given, "sr": np.array(16000)})
    have = bundle(given)
    np.testing.assert_allclose(have["output"], want[0], atol=1e-5)
    np.testing.assert_allclose(have["stateN"], want[1], atol=1e-5)


@pytest.mark.parametrize("target", CPU_TARGETS)
def test_voice_activity_whose_branches_stay(target: str, tmp_path: Path) -> None:
    bundle = toolkit.compile(
        inside("silero_vad", "data/silero_vad_op18_ifless.onnx"),
        target=target,
        stack="onnxruntime-fp32",
        inputs=["input=1x576", "state=2x1x128"],
        output=tmp_path / "bundle",
    )
    assert bundle.report["after"]["latency_s"] > 0


def test_a_recurrence_runs_in_a_tflite_with_the_state_that_it_is_given(tmp_path: Path) -> None:
    model = inside("silero_vad", "data/silero_vad_op18_ifless.onnx")
    bundle = toolkit.compile(
        model, target="raspberry_pi_4", stack="tflite-fp32", fixed=["sr=16000"],
        inputs=["input=1x576", "state=2x1x128"], output=tmp_path / "bundle",
    )  # fmt: skip
    assert verify_bundle(bundle).passed

    import onnxruntime

    original, here = onnxruntime.InferenceSession(str(model)), np.zeros((2, 1, 128), np.float32)
    there = here
    for k in range(4):
        sound = generator(k, "sound").normal(0, 0.1, (1, 576)).astype(np.float32)
        want, there = original.run(None, {"input": sound, "state": there, "sr": np.array(16000)})
        have = bundle({"input": sound, "state": here})
        here = have["stateN"]
        np.testing.assert_allclose(have["output"], want, atol=1e-5)
        np.testing.assert_allclose(here, there, atol=1e-5)


def test_sizes_that_a_branch_hides_have_no_form_in_a_tflite(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput) as refusal:
        toolkit.compile(
            inside("silero_vad", "data/silero_vad.onnx"),
            target="raspberry_pi_4",
            fixed=["sr=16000"],
            inputs=["input=1x576", "state=2x1x128"],
            output=tmp_path / "bundle",
        )
    assert "Size" in refusal.value.problem
    assert "--stack onnxruntime-int8" in refusal.value.hint
    assert not (tmp_path / "bundle").exists()


def test_voice_activity_in_torchscript_is_refused_with_the_operator(capfd: pytest.CaptureFixture[str]) -> None:
    """It keeps its state between calls and asks of tensors in Python; torch's exporter names where."""
    with pytest.raises(InvalidInput) as refusal:
        toolkit.compile(
            inside("silero_vad", "data/silero_vad.jit"), target="desktop_cpu", fixed=["sr=16000"], inputs=["x=1x512"]
        )
    assert "bitwise Not" in refusal.value.problem
    assert "ONNX" in refusal.value.hint
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("target", CPU_TARGETS)
def test_file_types_from_bytes(target: str, tmp_path: Path) -> None:
    model = next(inside("magika", "models").glob("standard_*/model.onnx"))
    bundle = toolkit.compile(model, target=target, output=tmp_path / "bundle")
    assert bundle.signature.inputs[0].dtype == "int32"
    assert verify_bundle(bundle).passed

    import onnxruntime

    spec = bundle.signature.inputs[0]
    size = spec.shape[1]
    assert isinstance(size, int)
    content = generator(0, "bytes").integers(0, 256, (1, size)).astype(np.int32)
    want = onnxruntime.InferenceSession(str(model)).run(None, {spec.name: content})[0]
    np.testing.assert_allclose(next(iter(bundle(content).values())), want, atol=1e-5)


@pytest.mark.parametrize("target", CPU_TARGETS)
def test_faces(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All three nets from `module:factory`; the second one, quantized on half of the faces, tells the other half."""
    from skimage.data import lfw_subset
    from skimage.transform import resize

    (tmp_path / "mtcnn_factories.py").write_text(MTCNN)
    monkeypatch.chdir(tmp_path)
    for net in ("pnet", "onet"):
        assert verify_bundle(toolkit.compile(f"mtcnn_factories:{net}", target=target)).passed
    pictures = np.stack([resize(picture, (24, 24)) for picture in lfw_subset()])
    inputs = np.repeat(((pictures * 255 - 127.5) / 128)[:, None], 3, axis=1).astype(np.float32)
    bundle = toolkit.compile("mtcnn_factories:rnet", target=target, data=inputs[::2])
    is_face = bundle.signature.outputs[1].name
    told = [bundle(picture[None])[is_face][0, 1] > 0.5 for picture in inputs[1::2]]
    right = np.mean([face == (i < 50) for i, face in enumerate(told)])  # the first hundred of the set are faces
    assert right >= 0.97
