"""A stack of onnxruntime's WebGPU provider: compiled anywhere, run on a Vulkan device; here SwiftShader, of chromium.

Mesa's lavapipe is no such device: the provider refuses Debian 12's, and crashes on newer ones.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import toolkit
from passes import webgpu
from passes.onnxruntime import Session, import_onnxruntime
from targets.errors import MissingDependency
from toolkit.backends import webgpu as backend
from toolkit.bundle.bundle import open_bundle
from toolkit.cli.main import main

SWIFTSHADER = Path("/usr/lib/chromium/vk_swiftshader_icd.json")
on_a_device = pytest.mark.skipif(
    find_spec("onnxruntime_ep_webgpu") is None or not SWIFTSHADER.exists(),
    reason="needs onnxruntime-ep-webgpu (extra vulkan) and SwiftShader (apt-get install chromium-common libvulkan1)",
)


ON_THE_DEVICE_ALONE = """
import numpy as np
from onnx.parser import parse_model
from passes import webgpu
from passes.onnxruntime import Session, import_onnxruntime

model = parse_model('''<ir_version: 8, opset_import: ["": 18]>
g (float[1, 3, 9, 9] x, float[4, 3, 3, 3] w, float[4, 5] m) => (float[1, 5] y) {
    c = Conv<pads = [1, 1, 1, 1]>(x, w)
    r = Relu(c)
    p = GlobalAveragePool(r)
    f = Flatten(p)
    t = MatMul(f, m)
    y = Softmax(t)
}''').SerializeToString()
ort = import_onnxruntime()
options = ort.SessionOptions()
options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
options.add_provider_for_devices(webgpu.webgpu_devices(ort), {})
rng = np.random.default_rng(0)
shapes = {"x": (1, 3, 9, 9), "w": (4, 3, 3, 3), "m": (4, 5)}
inputs = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
there = ort.InferenceSession(model, options).run(None, inputs)[0]
error = np.abs(there - Session(model)(inputs)["y"]).max()
assert error < 1e-6, error
"""


@pytest.fixture
def nothing_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_webgpu", None)
    monkeypatch.setattr(webgpu, "_registered", lambda ort: [])
    ort = import_onnxruntime()  # which names it among its own once a test has registered it
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    backend._has_device.cache_clear()


def toolkit_on_swiftshader(*arguments: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: Vulkan's loader and the provider look for devices once."""
    given = {"VK_ICD_FILENAMES": str(SWIFTSHADER), "VK_DRIVER_FILES": str(SWIFTSHADER)}
    return subprocess.run([sys.executable, "-m", "toolkit.cli.main", *arguments], capture_output=True, text=True,
                          env={**os.environ, **given}, timeout=300, check=False)  # fmt: skip


@on_a_device
@pytest.mark.slow
def test_a_bundle_is_made_and_verified_on_the_device(tmp_path: Path) -> None:
    made = toolkit_on_swiftshader("compile", "--target", "desktop_gpu", "--stack", "webgpu-fp32",
                                  "--output", str(tmp_path / "bundle"))  # fmt: skip
    assert made.returncode == 0, made.stderr
    artifact = open_bundle(tmp_path / "bundle").artifact
    assert (artifact.file, artifact.complete, artifact.checked) == ("model.onnx", True, "")
    verified = toolkit_on_swiftshader("verify", str(tmp_path / "bundle"), "--json")
    assert verified.returncode == 0, verified.stderr
    found = json.loads(verified.stdout)
    assert found["sqnr_db"] is None or found["sqnr_db"] >= found["floor_db"]
    assert found["reference_sqnr_db"] > 80  # float32 sums in the device's order; None were the processor's own
    across = toolkit_on_swiftshader("verify", str(tmp_path / "bundle"), "--provider", "cpu")
    assert across.returncode == 0, across.stdout


@pytest.mark.slow
@on_a_device
def test_the_heavy_operators_run_on_the_device() -> None:
    """With fallback to the processor switched off, a graph of what networks spend their time in still runs."""
    env = {**os.environ, "VK_ICD_FILENAMES": str(SWIFTSHADER), "VK_DRIVER_FILES": str(SWIFTSHADER)}
    ran = subprocess.run(
        [sys.executable, "-c", ON_THE_DEVICE_ALONE], capture_output=True, text=True, env=env, timeout=300, check=False
    )
    assert ran.returncode == 0, ran.stderr


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_here")
def test_compiled_where_it_cannot_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = toolkit.compile(target="desktop_gpu", stack="webgpu-fp32", output=tmp_path / "bundle")
    assert bundle.artifact.complete
    assert "answers of onnxruntime's processor" in bundle.artifact.checked
    assert main(["verify", str(bundle.path)]) == 3
    said = capsys.readouterr().err
    assert "pip install onnxruntime-ep-webgpu" in said
    assert "mesa-vulkan-drivers" in said
    assert main(["verify", str(bundle.path), "--provider", "cpu"]) == 0


def test_a_device_that_is_refused_names_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    ort = import_onnxruntime()

    def refused(*given: object, **options: object) -> None:
        raise RuntimeError("Failed to get a WebGPU adapter: No supported adapters")

    monkeypatch.setattr(webgpu, "webgpu_devices", lambda library: ort.get_ep_devices()[:1])
    monkeypatch.setattr(ort, "InferenceSession", refused)
    with pytest.raises(MissingDependency, match="No supported adapters") as raised:
        Session(b"", provider="webgpu")
    assert "mesa-vulkan-drivers" in raised.value.hint


def test_a_plug_in_that_this_onnxruntime_cannot_load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "broken.so").write_bytes(b"no library")
    plugin = type("plugin", (), {"get_library_path": staticmethod(lambda: str(tmp_path / "broken.so"))})
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_webgpu", plugin)
    monkeypatch.setattr(webgpu, "_registered", lambda ort: [])
    with pytest.raises(MissingDependency, match="cannot load onnxruntime-ep-webgpu") as raised:
        webgpu.webgpu_devices(import_onnxruntime())
    assert "pip install --upgrade" in raised.value.hint


def test_a_plug_in_without_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    library = type(
        "library",
        (),
        {
            "get_ep_devices": list,
            "set_default_logger_severity": lambda self, level: None,
            "register_execution_provider_library": lambda self, *a: None,
        },
    )
    plugin = type("plugin", (), {"get_library_path": staticmethod(lambda: "there.so")})
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_webgpu", plugin)
    with pytest.raises(MissingDependency, match="finds no device"):
        webgpu.webgpu_devices(library())


def test_the_provider_is_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    device = type("device", (), {"ep_name": "WebGpuExecutionProvider"})
    library = type("library", (), {"get_ep_devices": staticmethod(lambda: [device, device])})
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_webgpu", None)  # registered before: nothing is imported
    assert webgpu.webgpu_devices(library) == [device]
