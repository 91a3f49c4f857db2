"""Labels that MNIST-5k needs for 95 %: those that a strategy asks for beside as many at random."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from passes.dataset import Array
from toolkit.bench.training_cost.ablation import Ablation, Arm
from toolkit.bench.training_cost.metering import Meter
from toolkit.bench.training_cost.tasks import accuracy, mnist, mnist_missing, seeded
from toolkit.rng import generator
from toolkit.training.active_learning import rounds, strategy
from toolkit.training.optimizing import share_of_rate

_FIRST, _STEP, _MOST, _GOAL = 50, 50, 2000, 0.95
_UPDATES, _BATCH, _RATE, _SHIFT = 500, 32, 3e-3, 2


def _network() -> nn.Module:
    """Three convolutions, and dropout in front of the classes, which BALD draws its members from."""

    def layer(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]

    return nn.Sequential(*layer(1, 16), *layer(16, 32), *layer(32, 64), nn.Flatten(), nn.Dropout(0.5),
                         nn.Linear(64 * 16, 10))  # fmt: skip


def _arm(name: str) -> Arm:
    def run(seed: int, meter: Meter) -> None:
        task = mnist(seed).to(meter.device)
        rng = generator(seed, "active learning", "first")
        asked = 0

        def train(labelled: Array) -> nn.Module:
            nonlocal asked
            meter.spend("labels", len(labelled) - asked)
            asked = len(labelled)
            return _trained(task.x, task.y, labelled, seed, meter)

        for found in rounds(task.x, train, strategy(name), first=_FIRST, step=_STEP, most=_MOST, rng=rng):
            quality = accuracy(found.model, task)
            meter.judge(quality)
            if quality >= _GOAL:
                return

    return run


def _trained(x: torch.Tensor, y: torch.Tensor, labelled: Array, seed: int, meter: Meter) -> nn.Module:
    """From new weights, as many updates whatever the number of labels, on images moved by up to two pixels."""
    model = seeded(_network, seed).to(meter.device).train()
    optimizer = torch.optim.AdamW(model.parameters(), _RATE, weight_decay=5e-2)
    rng = generator(seed, "active learning", "batches", str(len(labelled)))
    for update in range(_UPDATES):
        chosen = torch.from_numpy(np.sort(rng.choice(labelled, _BATCH, replace=False)))
        top, left = rng.integers(0, 2 * _SHIFT + 1, 2)
        optimizer.param_groups[0]["lr"] = _RATE * share_of_rate(update, _UPDATES, 0.05)
        with meter.step("update", samples=_BATCH):
            optimizer.zero_grad()
            moved = nn.functional.pad(x[chosen], (_SHIFT,) * 4)[:, :, top : top + 28, left : left + 28]
            nn.functional.cross_entropy(model(moved), y[chosen]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return model.eval()


ABLATION = Ablation(
    name="active_learning",
    factor="data",
    task="MNIST-5k, labels until 95 % of 1,000 images are right",
    arms={name: _arm(name) for name in ("random", "entropy", "margin", "bald", "core_set")},
    headline="bald",
    cost="labels",
    goal=_GOAL,
    missing=mnist_missing,
    costs=("labels", "flops"),
    note="labels, not training: every round trains anew",
)
