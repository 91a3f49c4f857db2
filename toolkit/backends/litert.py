"""LiteRT and the Edge TPU want a .tflite, which this version does not write yet: it says so and ships the ONNX."""

from __future__ import annotations

from dataclasses import dataclass

from passes.program import Program
from targets.stack import Stack
from targets.support import load_rules
from toolkit.backends.onnx_file import OnnxFile

__all__ = ["LiteRT"]


@dataclass(frozen=True)
class LiteRT(OnnxFile):
    """The file is the quantized graph that a .tflite will be lowered from, and is never called complete."""

    name: str = "litert"

    def remaining(self, program: Program, stack: Stack) -> str:
        if stack.rules and load_rules(stack.rules).needs_dtype == "int8" and "int8" not in program.facts:
            return f"{stack.rules} takes integers only, and this model was not quantized: see the passes above"
        then = f", then {stack.next_step}" if stack.next_step else ""
        return (
            f"{stack.runtime} runs a .tflite, which this version does not write yet; "
            f"convert model.onnx with a converter of your own{then}"
        )
