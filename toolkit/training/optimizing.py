"""AdamW with the rate of each step: a warm-up, then half a cosine down to nothing; and what may take their place."""

from __future__ import annotations

from collections.abc import Callable
from math import cos, pi
from typing import Any, TypeAlias

import torch
from torch import nn

from targets.errors import InvalidInput

__all__ = ["MakeOptimizer", "Schedule", "name_of", "optimizer_for", "share_of_rate"]

MakeOptimizer: TypeAlias = Callable[[nn.Module, float, float], torch.optim.Optimizer]
"""From a model, the highest rate and the weight decay to what updates the model. Each step sets `lr` of every group to
the rate of the step, times `share` of the group where it has one."""

Schedule: TypeAlias = Callable[[int, int, float], float]
"""From a step, the number of steps and the share of them that warms up to the part of the highest rate."""


def optimizer_for(model: nn.Module, rate: float, weight_decay: float) -> torch.optim.AdamW:
    """AdamW on what is trainable. Vectors and scalars (biases, norms, scales) do not decay.

    Raises:
        InvalidInput: nothing is trainable.

    Source: Loshchilov and Hutter 2019, arXiv:1711.05101.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not trainable:
        raise InvalidInput("the model has no parameter to train", hint="leave out the passes that train it")
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=rate)


def share_of_rate(step: int, steps: int, warm_up: float) -> float:
    """What part of the highest rate is used in `step` of `steps`; `warm_up` is the share of them that rises.

    Source: Loshchilov and Hutter 2017, arXiv:1608.03983.
    """
    rising = int(steps * warm_up)
    if step < rising:
        return (step + 1) / (rising + 1)
    return (1 + cos(pi * (step - rising) / max(1, steps - rising))) / 2


def name_of(function: Callable[..., Any]) -> str:
    """What stands for an optimizer or a schedule in the key of a training.

    Raises:
        InvalidInput: it has no name of its own, so that two of them could not be told apart.
    """
    if stated := getattr(function, "key", None):
        return str(stated)
    name = f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', '<')}"
    if "<" in name:
        raise InvalidInput(
            f"{function!r} has no name that a checkpoint could go by",
            hint="give a function of a module, or an object with a `key` that says all that decides it",
        )
    return name
