"""ONNX for onnxruntime: the graph as it is, run here by the same library that runs it on the board."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from passes.onnxruntime import Session
from passes.program import Program
from targets.stack import Stack
from toolkit.backends.backend import Artifact

__all__ = ["OnnxRuntime", "write_onnx"]


@dataclass(frozen=True)
class OnnxRuntime:
    """Writes `model.onnx`."""

    name: str = "onnxruntime"

    def lower(self, program: Program, stack: Stack, folder: Path) -> Artifact:
        write_onnx(program, folder)
        return Artifact(file="model.onnx", format="onnx", complete=not stack.next_step, remaining=stack.next_step)

    def load(self, artifact: Path, *, threads: int = 1) -> Session:
        return Session(artifact.read_bytes(), threads=threads)


def write_onnx(program: Program, folder: Path) -> None:
    """The final graph; every backend lowers from it."""
    (folder / "model.onnx").write_bytes(program.onnx_bytes)
