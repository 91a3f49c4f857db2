"""A network in the form in which a stack runs it, and a sample to time it with."""

from __future__ import annotations

from passes.context import Budget, Context, synthetic_data
from passes.dataset import Sample
from passes.program import Program
from passes.recipe import RECIPES
from passes.running import run
from targets.errors import InvalidInput
from targets.stack import Stack

__all__ = ["lowered", "sample_of"]


def lowered(program: Program, stack: Stack) -> Program:
    """The graph that `stack` would run, as a compile makes it; kept whatever it does to random answers.

    Raises:
        InvalidInput: the stack wants 8-bit integers, and the network could not be quantized.
    """
    recipe = RECIPES["int8" if stack.precision == "int8" else "float32"](stack, program.level)
    data = synthetic_data(program.signature, 0, example=program.example)
    ctx = Context(stack=stack, data=data, budget=Budget(min_sqnr_db=-1e9), pace=_NeverSlower())
    outcome = run(recipe, program, ctx)
    if stack.precision == "int8" and "int8" not in outcome.program.facts:
        raise InvalidInput(
            f"{program.name} was not quantized: {outcome.proofs[-1].reason}",
            hint="measure it in float32, or leave it out",
        )
    return outcome.program


class _NeverSlower:
    """What is to be measured is kept, whatever the model that will be fitted on it says today."""

    key = "never slower"

    def slower(self, step: str, before: Program, after: Program) -> bool:
        return False


def sample_of(program: Program) -> Sample:
    """Noise of the program's shapes."""
    return next(iter(synthetic_data(program.signature, 0, 1, example=program.example)))
