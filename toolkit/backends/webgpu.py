"""ONNX for onnxruntime's WebGPU provider: any GPU with Vulkan, Direct3D 12 or Metal. The file is run on it here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from passes import webgpu
from passes.onnxruntime import Session
from passes.program import Program
from targets.errors import MissingDependency
from targets.stack import Stack
from toolkit.backends.backend import Artifact
from toolkit.backends.onnx_file import OnnxFile

__all__ = ["WebGPU"]

_NOT_RUN = f"no WebGPU device or no {webgpu.DISTRIBUTION} here: golden.npz holds the answers of onnxruntime's processor"


@dataclass(frozen=True)
class WebGPU(OnnxFile):
    """The file is the artefact. Operators that the provider does not take run on the processor."""

    name: str = "webgpu"

    def lower(self, program: Program, stack: Stack, folder: Path) -> Artifact:
        artifact = super().lower(program, stack, folder)
        return artifact if _has_device() else replace(artifact, checked=_NOT_RUN)

    def witness(self, folder: Path, artifact: Artifact) -> Session:
        """The file on the device, or on the processor where there is none."""
        if artifact.checked:
            return Session((folder / artifact.file).read_bytes())
        return self.load(folder / artifact.file)

    def load(self, artifact: Path, *, threads: int = 1) -> Session:
        """The file on the device.

        Raises:
            MissingDependency: the provider is not installed, or finds no device that it takes.
        """
        return Session(artifact.read_bytes(), threads=threads, provider="webgpu")

    def runs_here(self, artifact: Path) -> str:
        return f"{super().runs_here(artifact)}'s WebGPU provider"


@cache
def _has_device() -> bool:
    """Whether the provider runs a graph of one operator here."""
    from onnx.parser import parse_model

    smallest = '<ir_version: 8, opset_import: ["": 18]> g (float[2] x) => (float[2] y) { y = Add(x, x) }'
    try:
        Session(parse_model(smallest).SerializeToString(), provider="webgpu")
    except MissingDependency:
        return False
    return True
