"""A .tflite for LiteRT, written from the graph; for the Edge TPU what its compiler takes, compiled where it is here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from passes.dataset import Array, Sample
from passes.onnxruntime import Session
from passes.program import Program
from targets.stack import Stack
from targets.support import load_rules
from toolkit.backends.backend import Artifact

__all__ = ["LiteRT"]

_FILE = "model.tflite"
_NOT_RUN = "LiteRT is not installed here (extra litert): golden.npz holds the answers of model.onnx"


@dataclass(frozen=True)
class LiteRT:
    """Writes `model.onnx` and, from it, `model.tflite`.

    The file takes and gives what the model's signature says; for an accelerator of integers alone it takes and gives
    int8, with inputs in the order that the first operator wants, and says so in its metadata.
    """

    name: str = "litert"

    def check(self, program: Program, stack: Stack) -> None:
        """What can be known before integers are made of it: every operator has a form in a .tflite.

        Raises:
            InvalidInput: an operator has none, or sizes beside the batch vary.
        """
        from toolkit.backends.litert.tflite import drafted

        drafted(program, stack)

    def lower(self, program: Program, stack: Stack, folder: Path) -> Artifact:
        """Write both files.

        Raises:
            InvalidInput: an operator has no form in a .tflite; nothing is written then.
        """
        from toolkit.backends.litert.edgetpu import compile_for_edgetpu, write_partition
        from toolkit.backends.litert.edgetpu_list import forecast
        from toolkit.backends.litert.runtime import has_runtime
        from toolkit.backends.litert.tflite import drafted

        content, draft = drafted(program, stack)
        (folder / "model.onnx").write_bytes(program.onnx_bytes)
        (folder / _FILE).write_bytes(content)
        checked = "" if has_runtime() else _NOT_RUN
        if stack.rules and load_rules(stack.rules).needs_dtype == "int8" and "int8" not in program.facts:
            why = f"{stack.rules} takes integers only, and this model was not quantized: see the passes above"
            return Artifact(file=_FILE, format="tflite", complete=False, remaining=why, checked=checked)
        compiled = compile_for_edgetpu(folder / _FILE) if stack.rules == "edgetpu" else None
        if compiled is not None:
            return Artifact(file=compiled.name, format="tflite", complete=True, checked=checked)
        if stack.rules == "edgetpu":
            write_partition(folder, forecast(draft))
        remaining = stack.next_step
        return Artifact(file=_FILE, format="tflite", complete=not remaining, remaining=remaining, checked=checked)

    def load(self, artifact: Path, *, threads: int = 1) -> Callable[[Sample], dict[str, Array]]:
        """The file in LiteRT on this machine's CPU; of one for an accelerator, that which it was compiled from.

        Raises:
            MissingDependency: the extra `litert` is not installed.
        """
        from toolkit.backends.litert.runtime import Interpreter

        return Interpreter(artifact.with_name(_FILE).read_bytes(), threads=threads)

    def runs_here(self, artifact: Path) -> str:
        from toolkit.backends.litert.runtime import runtime_version

        return f"{_FILE} in LiteRT {runtime_version()} on the processor"

    def witness(self, folder: Path, artifact: Artifact) -> Callable[[Sample], dict[str, Array]]:
        """The file itself, or its graph where nothing here runs the file."""
        if artifact.checked:
            return Session((folder / "model.onnx").read_bytes())
        return self.load(folder / artifact.file)
