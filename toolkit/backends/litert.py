"""LiteRT and the Edge TPU want a .tflite, which this version does not write yet: it says so and ships the ONNX."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from passes.onnxruntime import Session
from passes.program import Program
from targets.stack import Stack
from toolkit.backends.backend import Artifact
from toolkit.backends.onnxruntime import write_onnx

__all__ = ["LiteRT"]


@dataclass(frozen=True)
class LiteRT:
    """Writes `model.onnx`, the quantized graph that a .tflite will be lowered from, and never calls it complete."""

    name: str = "litert"

    def lower(self, program: Program, stack: Stack, folder: Path) -> Artifact:
        write_onnx(program, folder)
        then = f", then {stack.next_step}" if stack.next_step else ""
        remaining = (
            f"{stack.runtime} runs a .tflite, which this version does not write yet; "
            f"convert model.onnx with a converter of your own{then}"
        )
        return Artifact(file="model.onnx", format="onnx", complete=False, remaining=remaining)

    def load(self, artifact: Path, *, threads: int = 1) -> Session:
        """The ONNX through onnxruntime's CPU kernels."""
        return Session(artifact.read_bytes(), threads=threads)
