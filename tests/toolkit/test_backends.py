"""Every backend writes what its artefact says, runs it where it claims to, and every stack names one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import toolkit
from passes.context import synthetic_data
from passes.program import Program
from targets.errors import InvalidInput, MissingDependency
from targets.stack import Stack
from targets.target import load_target, target_names
from toolkit.backends import BACKENDS
from toolkit.backends.backend import Artifact
from toolkit.driver import export_program

STACKS = [stack for name in target_names() for stack in load_target(name).stacks.values()]
MARKED = [
    pytest.param(stack, marks=pytest.mark.slow if stack.artifact == "executable" else (), id=stack.id)
    for stack in STACKS
]  # a compiler makes programs


@pytest.fixture(scope="module")
def program() -> Program:
    return export_program()


@pytest.mark.parametrize("stack", MARKED)
def test_a_stack_gets_an_artefact_that_says_what_is_left(stack: Stack, program: Program, tmp_path: Path) -> None:
    artifact = BACKENDS[stack.backend].lower(program, stack, tmp_path)
    assert (tmp_path / artifact.file).stat().st_size > 0
    assert artifact.complete != bool(artifact.remaining)
    if stack.artifact != artifact.format:
        assert not artifact.complete, "a stack that wants another format cannot be done"
    assert Artifact.from_json(artifact.to_json()) == artifact


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(BACKENDS))
def test_a_backend_runs_what_it_wrote(name: str, program: Program, tmp_path: Path) -> None:
    backend = BACKENDS[name]
    assert backend.name == name
    stack = next(s for s in STACKS if s.backend == name)
    artifact = backend.lower(program, stack, tmp_path)
    try:
        run = backend.load(tmp_path / artifact.file)
    except MissingDependency as missing:
        assert artifact.checked, "an artefact that was run when it was made runs"
        pytest.skip(f"{missing}: {missing.hint}")
    for sample in synthetic_data(program.signature, 0):
        answer = run(sample)["output"]
        np.testing.assert_allclose(answer, program.truth.run(sample)["output"], rtol=1e-4, atol=1e-5)


def test_an_engine_for_varying_sizes_is_told_their_range(tmp_path: Path) -> None:
    import torch

    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    varying = export_program((module, (torch.zeros(4, 3, 16, 16),)), inputs=["Nx3x16x16"])
    artifact = BACKENDS["tensorrt"].lower(varying, load_target("jetson_nano").stack(None), tmp_path)
    name = varying.signature.inputs[0].name
    assert artifact.remaining.startswith("on the device: trtexec --onnx=model.onnx --fp16 ")
    assert (
        f"--minShapes={name}:1x3x16x16 --optShapes={name}:4x3x16x16 --maxShapes={name}:4x3x16x16" in artifact.remaining
    )


class _Unknown(nn.Module):
    """A determinant, which neither a .tflite nor TensorRT nor TVM has, behind a layer that could be quantized."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.det(self.layer(x))


@pytest.mark.parametrize(
    "stack",
    [
        "raspberry_pi_4/tflite-int8",
        pytest.param("raspberry_pi_4/program-int8", marks=pytest.mark.slow),  # TVM takes seconds to load
        "jetson_orin_nano/tensorrt-int8",
        pytest.param("coral_tpu/usb3-desktop", marks=pytest.mark.slow),
    ],
)
def test_an_operator_that_a_stack_cannot_take_is_refused_before_anything_is_quantized(
    tmp_path: Path, stack: str
) -> None:
    target, name = stack.split("/")
    made: list[str] = []
    data = np.random.default_rng(0).standard_normal((8, 1, 4, 4)).astype(np.float32)
    with pytest.raises(InvalidInput, match="Det") as refusal:
        toolkit.compile(
            (_Unknown(), (torch.zeros(1, 4, 4),)), target=target, stack=name, data=data, output=tmp_path / "bundle",
            note=lambda proof: made.append(proof.name),
        )  # fmt: skip
    assert refusal.value.hint
    assert "Export" in made
    assert not [name for name in made if "Quantize" in name]
    assert not (tmp_path / "bundle").exists()
