"""From a program to the bytes of a .tflite."""

from __future__ import annotations

from typing import Any

from passes.program import Program
from targets.stack import Stack
from targets.target import load_target
from toolkit.backends.litert.layout import identity
from toolkit.backends.litert.lowering import Edges, Lowering, lowered
from toolkit.backends.litert.operators import OPERATORS
from toolkit.backends.litert.reading import readable
from toolkit.backends.litert.tensors import Draft
from toolkit.backends.litert.writing import file_bytes

__all__ = ["drafted", "tflite_bytes"]


def tflite_bytes(program: Program, stack: Stack, edges: Edges | None = None) -> bytes:
    """The content of the file; equal programs give equal bytes.

    Args:
        edges: How it meets its caller: as the signature says, unless the stack's accelerator has no floats.

    Raises:
        InvalidInput: operators have no form in the file, or sizes beside the batch vary.
    """
    return drafted(program, stack, edges)[0]


def drafted(program: Program, stack: Stack, edges: Edges | None = None) -> tuple[bytes, Draft]:
    """The content of the file, and the operators in it."""
    only_integers = bool(stack.rules) and "int8" in program.facts
    edges = edges or Edges(integers=only_integers, channels_last=only_integers)
    lowering = lowered(readable(program, stack).graph, OPERATORS, edges, _elsewhere(stack))
    return file_bytes(lowering.draft, program.name, _described(program, lowering)), lowering.draft


def _elsewhere(stack: Stack) -> str:
    """A stack of the same device that takes what a .tflite cannot hold."""
    others = [s for s in load_target(stack.target).stacks.values() if s.artifact == "onnx" and not s.superseded_by]
    runs = next((s for s in others if s.precision == stack.precision), others[0] if others else None)
    return f"choose a stack that runs ONNX: --stack {runs.name}" if runs else "choose a target that runs ONNX"


def _described(program: Program, lowering: Lowering) -> dict[str, Any]:
    """What the caller must know beside the file's own tensors: in which order axes lie, and whether batches are taken
    sample by sample."""
    signature = program.signature
    specs = (*signature.inputs, *signature.outputs)
    return {
        "types": {spec.name: spec.dtype for spec in signature.outputs},
        "orders": {name: order for name, order in lowering.orders.items() if order != identity(len(order))},
        "by_sample": all(spec.shape and isinstance(spec.shape[0], str) for spec in specs),
    }
