"""Störmer–Verlet with friction as an optimizer, beside AdamW and the heavy ball that it nearly is."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn

from toolkit.bench.training_cost.ablation import Ablation, Arm
from toolkit.bench.training_cost.metering import Meter
from toolkit.bench.training_cost.tasks import accuracy, batches, digits, image_network, seeded
from toolkit.training.symplectic import Symplectic

_EPOCHS = 12


def _adamw(weights: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(weights, lr=3e-3)


def _heavy_ball(weights: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(weights, lr=0.1, momentum=0.9)


def _leapfrog(weights: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """exp(−γ h) = 0.9 and h² (1 + 0.9) / 2 = 0.1: the heavy ball's momentum and rate."""
    return Symplectic(weights, lr=0.324, friction=0.325)


def _arm(optimizer_of: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]) -> Arm:
    def run(seed: int, meter: Meter) -> None:
        task, model = digits(seed).to(meter.device), seeded(image_network, seed).to(meter.device)
        optimizer = optimizer_of(model.parameters())
        for epoch in range(_EPOCHS):
            for x, y in batches(task, 64, seed, epoch):
                with meter.step("step", samples=len(x)):
                    optimizer.zero_grad()
                    nn.functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
            meter.judge(accuracy(model, task))

    return run


ABLATION = Ablation(
    name="symplectic",
    factor="algorithms",
    claimed=10.0,
    task="digits, 1,437 images, 14,000 parameters, accuracy on 360",
    arms={"adamw": _arm(_adamw), "heavy ball": _arm(_heavy_ball), "leapfrog": _arm(_leapfrog)},
    headline="leapfrog",
    margin=0.005,
)
