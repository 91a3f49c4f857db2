"""What a Jetson gets: a graph that its TensorRT reads, or a refusal by name, and a script that builds the engine."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch
from torch import nn

import toolkit
from targets.errors import InvalidInput
from toolkit.backends.tensorrt import SCRIPT

TRTEXEC = """#!/bin/sh
printf '%s\\n' "$@" > "$(dirname "$0")/told"
"""


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nano") / "bundle"
    toolkit.compile("digits", target="jetson_nano", output=folder)
    return folder


def built(bundle: Path, tools: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The script, where the system's own tools and those of `tools` are found."""
    environment = {"PATH": f"{tools}:/usr/bin:/bin", "HOME": os.environ.get("HOME", "/")}
    return subprocess.run(
        ["sh", str(bundle / SCRIPT), *arguments], env=environment, capture_output=True, text=True, check=False
    )


def test_the_script_calls_trtexec_as_the_bundle_says(nano: Path, tmp_path: Path) -> None:
    (tmp_path / "trtexec").write_text(TRTEXEC)
    (tmp_path / "trtexec").chmod(0o755)
    assert built(nano, tmp_path).returncode == 0
    told = (tmp_path / "told").read_text().split()
    assert told == ["--onnx=model.onnx", "--fp16", "--workspace=1024", "--saveEngine=../digits.engine"]
    assert " ".join(told[:3]) in toolkit.load(str(nano)).artifact.remaining
    assert built(nano, tmp_path, "/elsewhere/my.engine").returncode == 0
    assert "--saveEngine=/elsewhere/my.engine" in (tmp_path / "told").read_text().split()


def test_without_trtexec_it_names_the_package(nano: Path, tmp_path: Path) -> None:
    done = built(nano, tmp_path)
    assert done.returncode == 3
    assert "libnvinfer-bin" in done.stderr


def test_it_builds_nothing_from_a_changed_file(nano: Path, tmp_path: Path) -> None:
    (tmp_path / "trtexec").write_text(TRTEXEC)
    (tmp_path / "trtexec").chmod(0o755)
    for name in (SCRIPT, "model.onnx"):
        (tmp_path / name).write_bytes((nano / name).read_bytes())
    content = bytearray((tmp_path / "model.onnx").read_bytes())
    content[-20] ^= 1
    (tmp_path / "model.onnx").write_bytes(content)
    done = built(tmp_path, tmp_path)
    assert done.returncode == 5
    assert "model.onnx is not the file that was written" in done.stderr
    assert not (tmp_path / "told").exists()


class _Indices(nn.Module):
    """A grid sample, which came with TensorRT 8.5."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        place = torch.linspace(-1, 1, 4).repeat(1, 4, 1)
        return nn.functional.grid_sample(image, torch.stack([place, place.transpose(1, 2)], -1), align_corners=False)


@pytest.mark.slow
def test_what_its_tensorrt_does_not_read_is_refused_by_name(tmp_path: Path) -> None:
    model = (_Indices(), (torch.zeros(1, 1, 4, 4),))
    with pytest.raises(InvalidInput, match="GridSample") as refusal:
        toolkit.compile(model, target="jetson_nano", output=tmp_path / "nano")
    assert refusal.value.hint
    assert not (tmp_path / "nano").exists()
    assert toolkit.compile(model, target="jetson_agx_xavier", output=tmp_path / "xavier").path.is_dir()
