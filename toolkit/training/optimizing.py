"""AdamW with the rate of each step: a warm-up, then half a cosine down to nothing."""

from __future__ import annotations

from math import cos, pi

import torch
from torch import nn

from targets.errors import InvalidInput

__all__ = ["optimizer_for", "share_of_rate"]


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
