"""A small character model trained for a fixed number of updates, in the size that the device is for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from toolkit.bench.training_cost.metering import Meter
from toolkit.bench.training_cost.tasks import ALPHABET, Task, characters, seeded
from toolkit.rng import generator
from toolkit.training.precision import Kind, Precision

__all__ = ["Size", "language_size", "learn_language"]

_JUDGED = 10
"""Looks in a training."""

_ASKED = 16_384
"""Characters that judge."""


class Size:
    """What a training on characters is made of; `width`, `heads`, `blocks` and `context` are the network's."""

    def __init__(self, *, width: int, heads: int, blocks: int, context: int, batch: int, updates: int) -> None:
        self.width, self.heads, self.blocks, self.context = width, heads, blocks, context
        self.batch, self.updates = batch, updates


def language_size(device: torch.device) -> Size:
    """19 million parameters on a GPU, 0.1 million on a processor."""
    if device.type == "cuda":
        return Size(width=512, heads=8, blocks=6, context=256, batch=64, updates=100)
    return Size(width=64, heads=2, blocks=2, context=64, batch=16, updates=150)


def learn_language(
    make: Callable[[Size], nn.Module], seed: int, meter: Meter, *, kind: Kind = "float32", rate: float = 1e-3,
    size: Size | None = None, gauge: Callable[[], None] = lambda: None,
) -> None:  # fmt: skip
    """Train what `make` builds on Python's help topics; quality is minus the nats per character of other windows."""
    size = size or language_size(meter.device)
    whole = characters(seed, size.context)
    asked = _ASKED // size.context
    task = Task(whole.x, whole.y, whole.asked_x[:asked], whole.asked_y[:asked]).to(meter.device)
    model = seeded(lambda: make(size), seed).to(meter.device)
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.1)
    precision = Precision(meter.device, kind)
    rng = generator(seed, "language", "batches")
    for update in range(size.updates):
        chosen = torch.from_numpy(np.sort(rng.integers(0, len(task.x), size.batch))).to(meter.device)
        with meter.step("update", samples=size.batch):
            optimizer.zero_grad()
            with precision.computing():
                answers = model(task.x[chosen])
                loss = cross_entropy(answers.flatten(0, 1).float(), task.y[chosen].flatten())
            precision.backward(loss)
            precision.step(optimizer, precision.clipped(optimizer, model, 1.0))
        if (update + 1) % (size.updates // _JUDGED) == 0:
            gauge()
            meter.judge(-_nats(model, task))


def _nats(model: nn.Module, task: Task) -> float:
    model.eval()
    with torch.no_grad():
        parts = [cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="sum") for x, y in _chunks(task)]
    model.train()
    return float(torch.stack(parts).sum()) / task.asked_y.numel()


def _chunks(task: Task) -> list[tuple[torch.Tensor, torch.Tensor]]:
    return list(zip(torch.split(task.asked_x, 32), torch.split(task.asked_y, 32), strict=True))


CHARACTERS = len(ALPHABET)
