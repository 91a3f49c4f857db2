"""TensorRT: an engine can only be built on the device, so the artefact is the ONNX and the command that builds it."""

from __future__ import annotations

from dataclasses import dataclass

from passes.program import Program
from passes.signature import TensorSpec
from targets.stack import Stack
from toolkit.backends.onnx_file import OnnxFile

__all__ = ["TensorRT"]


@dataclass(frozen=True)
class TensorRT(OnnxFile):
    """The file is in the opset that the stack's parser reads; the next step is the `trtexec` command.

    An engine is built for a range of sizes: where inputs vary, from 1 to what the example has.
    """

    name: str = "tensorrt"

    def remaining(self, program: Program, stack: Stack) -> str:
        varying = [spec for spec in program.signature.inputs if any(isinstance(d, str) for d in spec.shape)]
        if not varying:
            return stack.next_step
        largest = ",".join(f"{s.name}:{_sizes(program.example[s.name].shape)}" for s in varying)
        smallest = ",".join(f"{s.name}:{_sizes(_smallest(s))}" for s in varying)
        return f"{stack.next_step} --minShapes={smallest} --optShapes={largest} --maxShapes={largest}"


def _smallest(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(d if isinstance(d, int) else 1 for d in spec.shape)


def _sizes(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
