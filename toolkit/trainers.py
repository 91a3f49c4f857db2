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
from targets.errors import InvalidInput
from toolkit.data.factory import find_factory, user_code

__all__ = ["TRAINER", "trainer_for"]

TRAINER = "toolkit.training.trainer:Trainer"


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
    """
    if data is None or all(step.kind is not Kind.RETRAINED for step in recipe.passes):
        return None
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
