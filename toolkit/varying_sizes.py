"""Which sizes a price is for, where those of the inputs may vary.

A batch that nobody stated is one, and that is said. Any other size decides what an inference costs: it must be stated.
"""

from __future__ import annotations

from passes.program import Program
from passes.signature import TensorSpec
from targets.errors import InvalidInput

__all__ = ["check_sizes", "size_notes"]

_SIDE, _LENGTH, _BATCH = 224, 128, 8  # of the --input that is suggested


def check_sizes(program: Program) -> None:
    """Refuse a program of which the work is not known: a size beside the batch may vary, and nobody stated it.

    Raises:
        InvalidInput: with the input and its dimensions.
    """
    for spec in program.signature.inputs:
        if names := [str(spec.shape[i]) for i in program.assumed.get(spec.name, ()) if i > 0]:
            raise InvalidInput(
                f"input {spec} varies in {', '.join(names)}, and what an inference costs depends on it",
                hint=f"state the sizes, for instance --input {_stated(program, spec, 1)}",
            )


def size_notes(program: Program) -> tuple[str, ...]:
    """A sentence for each input that may vary: what it was priced at, and whether anybody asked for that."""
    return tuple(
        _note(program, spec) for spec in program.signature.inputs if any(isinstance(d, str) for d in spec.shape)
    )


def _note(program: Program, spec: TensorSpec) -> str:
    shape = program.example[spec.name].shape
    guessed = program.assumed.get(spec.name, ())
    if any(i > 0 for i in guessed):
        names = ", ".join(f"{spec.shape[i]} as {shape[i]}" for i in guessed)
        return (
            f"input {spec.name} has sizes that nobody stated, and was priced with {names}: state those of the device "
            f"with --input {_stated(program, spec, 1)}"
        )
    if guessed:
        what = "batch" if len(shape) > 1 else "length"
        return f"{what} {spec.shape[0]} of input {spec.name} priced as 1; state it with --input " + _stated(
            program, spec, _BATCH if len(shape) > 1 else _LENGTH
        )
    varying = ", ".join(d for d in spec.shape if isinstance(d, str))
    return f"input {spec.name} priced as {_shape(shape)}, of which {varying} may vary"


def _stated(program: Program, spec: TensorSpec, first: int) -> str:
    """An --input that gives every size; for those that nobody stated, usual ones."""
    guessed = program.assumed.get(spec.name, ())
    usual = _SIDE if len(spec.shape) == 4 else _LENGTH
    sizes = list(program.example[spec.name].shape)
    for i in guessed:
        sizes[i] = 3 if (len(sizes), i) == (4, 1) else usual if i else first
    return f"{spec.name}={_shape(sizes)}" + (f":{spec.dtype}" if spec.dtype != "float32" else "")


def _shape(sizes: tuple[int, ...] | list[int]) -> str:
    return "x".join(map(str, sizes))
