"""LiteRT and the Edge TPU want a .tflite, which this version does not write yet: it says so and ships the ONNX."""

from __future__ import annotations

from dataclasses import dataclass

from targets.stack import Stack
from toolkit.backends.onnx_file import OnnxFile

__all__ = ["LiteRT"]


@dataclass(frozen=True)
class LiteRT(OnnxFile):
    """The file is the quantized graph that a .tflite will be lowered from, and is never called complete."""

    name: str = "litert"

    def remaining(self, stack: Stack) -> str:
        then = f", then {stack.next_step}" if stack.next_step else ""
        return (
            f"{stack.runtime} runs a .tflite, which this version does not write yet; "
            f"convert model.onnx with a converter of your own{then}"
        )
