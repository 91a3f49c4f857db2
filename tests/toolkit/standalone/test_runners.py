"""Which runner a device gets, and that what cannot be made is told before any pass."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import pytest

import toolkit
from targets.errors import MissingDependency
from targets.target import load_target, target_names
from toolkit.standalone import runners
from toolkit.standalone.runners import machine_of

BOARDS = ("coral_dev_board", "jetson_", "raspberry_pi_")


@pytest.mark.parametrize("name", target_names())
def test_boards_run_arm_and_desktops_what_this_machine_is(name: str) -> None:
    want = "aarch64" if name.startswith(BOARDS) else platform.machine()
    assert machine_of(load_target(name)).architecture == want


def test_without_a_library_for_the_board_nothing_is_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOOLKIT_CACHE", str(tmp_path / "cache"))  # holds no emulator
    steps: list[str] = []
    with pytest.raises(MissingDependency, match="no onnxruntime for aarch64") as refusal:
        toolkit.compile(
            "digits", target="raspberry_pi_4", output=tmp_path / "b", standalone=True,
            progress=lambda step, done: steps.append(step),
        )  # fmt: skip
    assert "--install-emulator" in refusal.value.hint
    assert steps == ["loading the model", "compiling the runner"]
    assert not (tmp_path / "b").exists()


@pytest.mark.slow
def test_a_board_gets_the_one_in_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled(machine: object, folder: Path) -> None:
        folder.mkdir()
        (folder / "runner").write_text("program")
        (folder / "libonnxruntime.so").write_text("library")

    monkeypatch.setattr(runners, "c_runner", compiled)
    bundle = toolkit.compile("digits", target="raspberry_pi_4", output=tmp_path / "b", standalone=True)
    assert {"run/runner", "run/libonnxruntime.so", "run/runner.json"} <= set(bundle.manifest["sha256"])
    assert json.loads((bundle.path / "run/runner.json").read_text())["stack"] == "raspberry_pi_4/tflite-int8"
    bill = json.loads((bundle.path / "sbom.cdx.json").read_text())
    kinds = {part["name"]: part["type"] for part in bill["components"]}
    assert (kinds["run/runner"], kinds["run/libonnxruntime.so"]) == ("application", "library")
    assert kinds["onnxruntime"] == "library"


def test_a_board_whose_system_is_too_old_is_told(tmp_path: Path) -> None:
    with pytest.raises(MissingDependency, match=r"needs glibc 2.28, the system of NVIDIA Jetson .* 2.27") as refusal:
        toolkit.compile("digits", target="jetson_nano", output=tmp_path / "b", standalone=True)
    assert "toolkit targets jetson_nano" in refusal.value.hint
    assert not (tmp_path / "b").exists()
