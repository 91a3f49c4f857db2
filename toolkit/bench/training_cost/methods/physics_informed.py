"""Learned mechanics inside a classifier of digits, beside a residual layer of as many weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from toolkit.bench.training_cost.ablation import Ablation, Arm
from toolkit.bench.training_cost.metering import Meter
from toolkit.bench.training_cost.tasks import accuracy, batches, digits, seeded
from toolkit.training.physics_informed import EnergyConstraint, HamiltonianLayer

_EPOCHS, _RATE, _N, _STEPS, _STEP = 20, 3e-3, 16, 4, 0.25


class _Residual(nn.Module):
    """Four residual steps of one network, as a plain recurrence; (B, 2 n) to the same."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2 * _N, 51), nn.Tanh(), nn.Linear(51, 2 * _N))

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(_STEPS):
            x = x + _STEP * self.net(x)
        return x


def _hamiltonian(integrator: str) -> nn.Module:
    return HamiltonianLayer(_N, hidden=32, steps=_STEPS, step=_STEP, integrator=integrator)  # type: ignore[arg-type]


def _arm(kind: str) -> Arm:
    def make() -> nn.Module:
        middle = _Residual() if kind == "residual" else _hamiltonian("euler" if "λ" in kind else "leapfrog")
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 2 * _N), middle, nn.Linear(2 * _N, 10))

    def run(seed: int, meter: Meter) -> None:
        task, model = digits(seed), seeded(make, seed)
        constraint = EnergyConstraint()
        optimizer = torch.optim.Adam([*model.parameters(), *constraint.parameters()], lr=_RATE)
        for epoch in range(_EPOCHS):
            for x, y in batches(task, 64, seed, epoch):
                with meter.step("step", samples=len(x)):
                    optimizer.zero_grad()
                    _loss(model, constraint if "λ" in kind else None, x, y).backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
            meter.judge(accuracy(model, task))

    return run


def _loss(model: nn.Module, constraint: EnergyConstraint | None, x: Tensor, y: Tensor) -> Tensor:
    assert isinstance(model, nn.Sequential)
    before = model[1](model[0](x))
    layer, after = model[2], model[2](before)
    loss = nn.functional.cross_entropy(model[3](after), y)
    if constraint is not None:
        assert isinstance(layer, HamiltonianLayer)
        loss = loss + constraint(layer.energy(before), layer.energy(after))
    return loss


ABLATION = Ablation(
    name="physics_informed",
    factor="algorithms",
    task="digits, 1,437 images, 5,700 parameters, accuracy on 360",
    arms={"residual": _arm("residual"), "hamiltonian": _arm("hamiltonian"), "euler and λ": _arm("euler and λ")},
    headline="hamiltonian",
    margin=0.005,
)
