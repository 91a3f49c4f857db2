"""The work of a measured ONNX file, read as an estimate for the stack reads it."""

from __future__ import annotations

from collections.abc import Sequence

from passes.program import Program
from passes.signature import TensorSpec
from targets.errors import InvalidInput, ToolkitError
from targets.fitting import Measured
from targets.graph import read_workload
from targets.stack import Stack
from targets.workload import Workload
from toolkit.calibration.rows import Row
from toolkit.driver import Options, float_program
from toolkit.input_shapes import parse_input, stated
from toolkit.sources import load_source

__all__ = ["check_shapes", "read"]

_SAY = "state it in the column input_shape, like 1x3x224x224; where there are several inputs, ids=1x16:int64; mask=1x16"


def read(row: Row, stack: Stack) -> Measured:
    """The network of `row`, in the precision of `stack`.

    Raises:
        InvalidInput: the file cannot be read, is of another precision, or a dimension of an input has no value.
    """
    shapes = [text.strip() for text in row.input_shape.split(";") if text.strip()]
    try:
        source = load_source(row.path, inputs=shapes)
        check_shapes(source.program, [parse_input(text) for text in shapes], hint=_SAY)
        _check_batch(source.program, stack)
        program = float_program(source, stack, Options())
        work = _in_precision(read_workload(program.static_model, fuses=stack.fuses), stack)
    except ToolkitError as error:
        hint = error.hint if shapes else f"{error.hint}; where the size of an input varies, {_SAY}"
        raise InvalidInput(f"line {row.line}, {row.path.name}: {error.problem}", hint=hint) from error
    return Measured(row.model, row.family, work, row.latency_s)


def check_shapes(program: Program, specs: Sequence[TensorSpec], *, hint: str) -> None:
    """Refuse a program whose work is not known, since a dimension beside the first may vary and has no value.

    Raises:
        InvalidInput: with `hint`.
    """
    for spec in program.signature.inputs:
        if varying := [d for d in stated(spec, specs).shape[1:] if not isinstance(d, int)]:
            raise InvalidInput(f"the size {varying[0]!r} of its input {spec.name!r} varies", hint=hint)


def _check_batch(program: Program, stack: Stack) -> None:
    """The latency of a batch is shared by its inferences, so the graph has to be that of one."""
    sizes = {array.shape[0] for array in program.example.values() if array.ndim}
    if stack.batch > 1 and sizes - {1}:
        raise InvalidInput(
            f"it takes a batch of {max(sizes)}",
            hint=f"give the network at batch 1: latency_ms is shared by {stack.batch}",
        )


def _in_precision(work: Workload, stack: Stack) -> Workload:
    if work.is_float32:
        return work.at_precision(stack.dtype)
    if not any(op.dtype in (stack.dtype, f"u{stack.dtype}") for op in work.operators):
        raise InvalidInput(
            f"nothing in it computes in {stack.dtype}, as {stack.id} does",
            hint="give the file that was measured, or calibrate the stack of its precision",
        )
    return work
