"""TensorRT: an engine can only be built on the device, so the artefact is the ONNX and the script that builds it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from passes.program import Program
from passes.signature import TensorSpec
from targets.errors import InvalidInput
from targets.parser import Parser, Unread, load_parser, unread
from targets.rewrites import rewrite_for
from targets.stack import Stack
from toolkit.backends.backend import Artifact
from toolkit.backends.onnx_file import OnnxFile

__all__ = ["SCRIPT", "TensorRT"]

SCRIPT = "build_engine.sh"
_COMMAND = re.compile(r"trtexec .*")
_TEXT = """\
#!/bin/sh
# Builds the engine of {name} for the GPU and the TensorRT of the device it runs on: sh {script} [ENGINE]
# {parser} or newer reads model.onnx; the engine is written beside this folder, which stays as it was made.
set -eu
cd "$(dirname "$0")"
engine=${{1:-../{name}.engine}}
PATH=$PATH:/usr/src/tensorrt/bin
if ! command -v trtexec > /dev/null; then
    echo "error: trtexec is not installed" >&2
    echo "  next: sudo apt-get install libnvinfer-bin, or add its folder to PATH" >&2
    exit 3
fi
if ! echo "{sha256}  model.onnx" | sha256sum --check --status; then
    echo "error: model.onnx is not the file that was written: its hash differs" >&2
    echo "  next: copy the bundle again" >&2
    exit 5
fi
{command} --saveEngine="$engine"
"""


@dataclass(frozen=True)
class TensorRT(OnnxFile):
    """The file is in the opset that the stack's parser reads; the next step is the script that runs `trtexec`.

    An engine is built for a range of sizes: where inputs vary, from 1 to what the example has.
    """

    name: str = "tensorrt"

    def check(self, program: Program, stack: Stack) -> None:
        """Every operator is one that the stack's parser reads.

        Raises:
            InvalidInput: it does not.
        """
        parser = load_parser(stack.parser)
        if found := unread(program.static_model, parser):
            raise _refusal(found, parser, stack)

    def lower(self, program: Program, stack: Stack, folder: Path) -> Artifact:
        """Write model.onnx and the script.

        Raises:
            InvalidInput: the stack's parser does not read an operator; nothing is written then.
        """
        self.check(program, stack)
        command = _COMMAND.search(self.remaining(program, stack))
        assert command is not None, f"{stack.id} names no trtexec command"
        artifact = super().lower(program, stack, folder)
        (folder / SCRIPT).write_text(_script(program, load_parser(stack.parser), command[0]), "utf-8")
        return artifact

    def remaining(self, program: Program, stack: Stack) -> str:
        varying = [spec for spec in program.signature.inputs if any(isinstance(d, str) for d in spec.shape)]
        if not varying:
            return stack.next_step
        largest = ",".join(f"{s.name}:{_sizes(program.example[s.name].shape)}" for s in varying)
        smallest = ",".join(f"{s.name}:{_sizes(_smallest(s))}" for s in varying)
        return f"{stack.next_step} --minShapes={smallest} --optShapes={largest} --maxShapes={largest}"


def _refusal(found: Sequence[Unread], parser: Parser, stack: Stack) -> InvalidInput:
    first = found[0]
    more = f", and {len(found) - 1} more like it or others" if len(found) > 1 else ""
    remedy = rewrite_for(first.op_type, first.reason)
    return InvalidInput(
        f"{parser.name} does not read {first.op_type} ({first.name}){more}: {first.reason}",
        hint=remedy or f"write it with other operators in the model, or choose another stack than {stack.id}",
    )


def _script(program: Program, parser: Parser, command: str) -> str:
    words = [word for word in command.split() if not word.startswith("--saveEngine")]
    return _TEXT.format(
        name=re.sub(r"[^\w.-]", "_", program.name),
        script=SCRIPT,
        parser=parser.name,
        sha256=hashlib.sha256(program.onnx_bytes).hexdigest(),
        command=" ".join(_quoted(word) for word in words),
    )


def _quoted(word: str) -> str:
    """For the shell: names of inputs are the model's own."""
    return word if re.fullmatch(r"[\w=.,:/-]+", word) else "'" + word.replace("'", "'\\''") + "'"


def _smallest(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(d if isinstance(d, int) else 1 for d in spec.shape)


def _sizes(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
