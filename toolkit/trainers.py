"""What trains when a recipe asks for it: found by its name, so that compiling imports no training code otherwise."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from passes.context import Context, Fit
from passes.contract import Kind
from passes.dataset import Dataset
from passes.program import Program
from passes.recipe import Recipe
from targets.errors import InvalidInput, UsageError
from toolkit.data.factory import find_factory, user_code
from toolkit.names import IN_MEMORY

__all__ = ["TRAINER", "trainer_for", "trains"]

TRAINER = "toolkit.training.trainer:Trainer"


def trains(recipe: Recipe) -> bool:
    """Whether a pass of `recipe` trains."""
    return any(step.kind is Kind.RETRAINED for step in recipe.passes)


def trainer_for(
    recipe: Recipe, program: Program, ctx: Context, *, trainer: str | Callable[..., Fit], data: Dataset | None,
    folder: Path | None,
) -> Fit | None:  # fmt: skip
    """What `recipe` trains with; None where no pass of it trains, or there is nothing to train on.

    Args:
        trainer: `module:factory`, or the factory itself. It is given what `toolkit.training.trainer.Trainer` is:
            `data`, `metric`, `inputs`, `seed`, `folder` and `progress`.
        data: Samples to train on.
        folder: Where checkpoints are kept; None keeps none.

    Raises:
        InvalidInput: there is no such factory, it raised, or made something that does not train.
        UsageError: the recipe was made with a trainer that has no name.
    """
    if data is None or not trains(recipe):
        return None
    if trainer == IN_MEMORY:
        raise UsageError("this recipe was made with a trainer in memory", hint="name one: --trainer module:factory")
    make: Any = find_factory(trainer) if isinstance(trainer, str) else trainer
    inputs = tuple(spec.name for spec in program.signature.inputs)
    with user_code(f"calling {trainer}"):
        fit: Any = make(data=data, metric=ctx.metric if data.labels is not None else None, inputs=inputs, seed=ctx.seed,
                        folder=folder, progress=ctx.progress)  # fmt: skip
    if not callable(fit) or not isinstance(getattr(fit, "key", None), str):
        raise InvalidInput(
            f"{trainer} made a {type(fit).__name__}, which does not train",
            hint="return what passes.context.Fit describes: callable, with a `key`",
        )
    made: Fit = fit
    return made
