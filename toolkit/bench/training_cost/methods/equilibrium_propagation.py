"""Equilibrium propagation beside backpropagation through a network of as many units."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toolkit.bench.training_cost.ablation import Ablation
from toolkit.bench.training_cost.metering import Meter
from toolkit.bench.training_cost.tasks import Task, accuracy, batches, digits, mlp, seeded
from toolkit.training.equilibrium_propagation import EnergyNetwork, EquilibriumPropagation

_EPOCHS, _RATE, _UNITS = 20, 0.1, 512


def _rate(epoch: int) -> float:
    return _RATE * (1 - epoch / _EPOCHS)


def _backpropagation(seed: int, meter: Meter) -> None:
    task, model = digits(seed), seeded(lambda: mlp(64, 10, _UNITS), seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=_RATE, momentum=0.9)
    for epoch in range(_EPOCHS):
        optimizer.param_groups[0]["lr"] = _rate(epoch)
        for x, y in batches(task, 32, seed, epoch):
            with meter.step("step", samples=len(x)):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        meter.judge(accuracy(model, task))


def _equilibrium(seed: int, meter: Meter) -> None:
    task = _flat(digits(seed))
    model = EnergyNetwork((64, _UNITS, 10), seed=seed, iterations=40, tolerance=1e-3)
    rule = EquilibriumPropagation(beta=0.5, iterations=12)
    optimizer = torch.optim.SGD(model.parameters(), lr=_RATE, momentum=0.9)
    for epoch in range(_EPOCHS):
        optimizer.param_groups[0]["lr"] = _rate(epoch)
        for x, y in batches(task, 32, seed, epoch):
            with meter.step("step", samples=len(x)):
                rule.gradients(model, x, nn.functional.one_hot(y, 10).to(x))
                optimizer.step()
        meter.judge(accuracy(model, task))


def _flat(task: Task) -> Task:
    def flattened(x: Tensor) -> Tensor:
        return x.flatten(1)

    return Task(flattened(task.x), task.y, flattened(task.asked_x), task.asked_y)


ABLATION = Ablation(
    name="equilibrium_propagation",
    factor="algorithms",
    task="digits, 1,437 images, 512 hidden units, accuracy on 360",
    arms={"backpropagation": _backpropagation, "equilibrium": _equilibrium},
    headline="equilibrium",
    cost="time_s",
    margin=0.005,
    note="its FLOPs are too few here: those of the first step stand for all, later ones settle more slowly",
)
