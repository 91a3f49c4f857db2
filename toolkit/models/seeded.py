"""Weights that come from a seed, and of a size that keeps signals alive; the global generator is left as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

__all__ = ["he_weights", "seeded"]

M = TypeVar("M", bound=nn.Module)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Weights that are made in the block on the CPU follow from `seed` alone; GPUs' generators are not touched."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def he_weights(model: M) -> M:
    """The model, its convolutions drawn so that signals behind a ReLU keep their size; biases are 0.

    torch's own choice shrinks a signal by about 0.4 a layer, and an untrained network then answers with its biases.
    Source: He et al. 2015, arXiv:1502.01852.
    """
    for layer in model.modules():
        if isinstance(layer, (nn.Conv1d, nn.Conv2d)):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return model
