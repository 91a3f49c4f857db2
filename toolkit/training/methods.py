"""From the methods that a recipe names to what the trainer takes."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from passes.torch_level.objectives import Objective
from targets.errors import InvalidInput
from toolkit.models.registry import entry, names
from toolkit.models.trained_folder import is_trained, open_trained
from toolkit.training.batches import Batches
from toolkit.training.curriculum import Curriculum, difficulty_by_loss
from toolkit.training.optimizing import MakeOptimizer, optimizer_for
from toolkit.training.recipe import DistilMethod, Methods, TrainRecipe
from toolkit.training.symplectic import Symplectic
from toolkit.training.thawing import Thaw
from toolkit.training.trainer import Trainer
from toolkit.training.transfer import GradualThaw, LayerRates, transplant

__all__ = ["curriculum_for", "optimizer_of", "started_from", "teacher_of", "thaw_of"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Leapfrog:
    """Makes `Symplectic` optimizers."""

    friction: float

    @property
    def key(self) -> str:
        return f"symplectic {self.friction!r}"

    def __call__(self, model: nn.Module, rate: float, _weight_decay: float) -> torch.optim.Optimizer:
        return Symplectic([p for p in model.parameters() if p.requires_grad], rate, friction=self.friction)


def optimizer_of(methods: Methods) -> MakeOptimizer:
    """What updates the weights.

    Raises:
        InvalidInput: two methods want to.
    """
    decays = methods.transfer is not None and methods.transfer.decay < 1
    if methods.symplectic is not None:
        if decays:
            raise InvalidInput(
                "methods.transfer.decay is for AdamW, and methods.symplectic takes its place",
                hint="leave one of them out",
            )
        return _Leapfrog(methods.symplectic.friction)
    if methods.transfer is not None and decays:
        return LayerRates(methods.transfer.decay)
    return optimizer_for


def thaw_of(methods: Methods) -> Thaw | None:
    """What learns when."""
    if methods.transfer is None or methods.transfer.thaw_every == 0:
        return None
    return GradualThaw(methods.transfer.thaw_every)


def started_from(methods: Methods, model: nn.Module) -> nn.Module:
    """`model` with what it can take of a trained network's weights, where the recipe names one. Where that is less
    than half of them, it is said: the two may be networks of other kinds."""
    if methods.transfer is not None:
        source = methods.transfer.start_from
        kept = set(transplant(_trained(source, "methods.transfer.start_from"), model))
        sizes = {name: p.numel() for name, p in model.named_parameters()}
        taken, count = sum(size for name, size in sizes.items() if name not in kept), sum(sizes.values())
        if 2 * taken < count:
            _log.warning("warning: only %s of %s parameters start from %s: no others have its names and shapes",
                         f"{taken:,}", f"{count:,}", source)  # fmt: skip
    return model


def teacher_of(method: DistilMethod) -> nn.Module:
    """The network whose answers are learned."""
    return _trained(method.teacher, "methods.distil.teacher").requires_grad_(False)


def _trained(named: str, field: str) -> nn.Module:
    """The folder of a training, or a network of the zoo that has shipped weights."""
    path = Path(named)
    if is_trained(path):
        return open_trained(path).model
    if named in names():
        found = entry(named)
        if found.is_trained:
            return found.build()
        raise InvalidInput(f"{field}: {named} comes untrained", hint=f"train it first: toolkit train {named}")
    raise InvalidInput(
        f"{field}: {named!r} is neither the folder of a training nor a network of the zoo",
        hint="make one with `toolkit train`, or name one of " + ", ".join(n for n in names() if entry(n).is_trained),
    )


def curriculum_for(recipe: TrainRecipe, trainer: Trainer, model: nn.Module) -> Trainer:
    """`trainer` with the curriculum that the recipe asks for. A sample is as hard as its loss is under the network
    that transfer starts from, else under a copy of `model` that was trained for one epoch."""
    method = recipe.methods.curriculum
    if method is None:
        return trainer
    if trainer.data.labels is None:
        raise InvalidInput("methods.curriculum goes by labels, and the data have none", hint="leave it out")
    scout = model
    if recipe.methods.transfer is None:
        plain = replace(trainer, validation=None, metric=None, thaw=None)
        scout = plain(model, Objective("labels", nn.Identity()), step="curriculum", epochs=1, rate=recipe.rate)
    batches = Batches(data=trainer.data, size=recipe.batch, seed=recipe.seed, inputs=trainer.inputs)
    difficulty = difficulty_by_loss(scout, batches.in_order())
    return replace(trainer, sampling=Curriculum(difficulty=difficulty, epochs=method.epochs, start=method.start))
