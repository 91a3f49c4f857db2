"""TensorRT: an engine can only be built on the device, so the artefact is the ONNX and the command that builds it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from passes.onnxruntime import Session
from passes.program import Program
from targets.stack import Stack
from toolkit.backends.backend import Artifact
from toolkit.backends.onnxruntime import write_onnx

__all__ = ["TensorRT"]


@dataclass(frozen=True)
class TensorRT:
    """Writes `model.onnx` in the opset that the stack's parser reads."""

    name: str = "tensorrt"

    def lower(self, program: Program, stack: Stack, folder: Path) -> Artifact:
        write_onnx(program, folder)
        return Artifact(file="model.onnx", format="onnx", complete=False, remaining=stack.next_step)

    def load(self, artifact: Path, *, threads: int = 1) -> Session:
        """The ONNX through onnxruntime's CPU kernels: the answers, not the engine's speed."""
        return Session(artifact.read_bytes(), threads=threads)
