"""What backends share whose stacks start from the ONNX graph: write it, run it here through onnxruntime."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from passes.onnxruntime import Session, import_onnxruntime
from passes.program import Program
from targets.stack import Stack
from toolkit.backends.backend import Artifact

__all__ = ["OnnxFile"]


@dataclass(frozen=True)
class OnnxFile:
    """Writes `model.onnx`, the graph that every other artefact is lowered from."""

    name: str

    def check(self, program: Program, stack: Stack) -> None:
        """Nothing: the ONNX is written as it is."""

    def remaining(self, program: Program, stack: Stack) -> str:
        """What is still to be done on the way to the device; empty where the stack runs this very file."""
        return stack.next_step

    def lower(self, program: Program, stack: Stack, folder: Path) -> Artifact:
        (folder / "model.onnx").write_bytes(program.onnx_bytes)
        remaining = self.remaining(program, stack)
        return Artifact(file="model.onnx", format="onnx", complete=not remaining, remaining=remaining)

    def witness(self, folder: Path, artifact: Artifact) -> Session:
        """The file itself."""
        return self.load(folder / artifact.file)

    def load(self, artifact: Path, *, threads: int = 1) -> Session:
        """The ONNX through onnxruntime's CPU kernels: the answers, not another runtime's speed."""
        return Session(artifact.read_bytes(), threads=threads)

    def runs_here(self, artifact: Path) -> str:
        return f"{artifact.name} in onnxruntime {import_onnxruntime().__version__}"
