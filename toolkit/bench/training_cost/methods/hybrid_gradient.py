"""The BK core's gradient: autograd through the recursions, the analytic one, and the published blends."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from toolkit.bench.training_cost.ablation import Ablation, Arm
from toolkit.bench.training_cost.metering import Meter
from toolkit.bench.training_cost.tasks import accuracy, batches, digits
from toolkit.training.hybrid_gradient import BKLayer, by_autograd

_EPOCHS, _RATE, _SITES, _Z = 15, 1e-2, 128, 1 + 0.5j
_Core = Callable[[BKLayer, Tensor], Tensor]


class _Network(nn.Module):
    """64 pixels to the potential of one chain of 128 sites, to its 256 features, to 10 classes."""

    def __init__(self, seed: int, alpha: float | None, core: _Core) -> None:
        super().__init__()
        self.layer, self.core = BKLayer(64, 1, _SITES, z=_Z, alpha=alpha, seed=seed), core
        self.classify = nn.Linear(2 * _SITES, 10)
        nn.init.zeros_(self.classify.weight)
        nn.init.zeros_(self.classify.bias)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classify(self.core(self.layer, x.flatten(1)))
        return logits


def _analytic(layer: BKLayer, x: Tensor) -> Tensor:
    features: Tensor = layer(x)
    return features


def _autograd(layer: BKLayer, x: Tensor) -> Tensor:
    return by_autograd(layer.potential(x), z=_Z).flatten(1)


def _arm(alpha: float | None = None, core: _Core = _analytic, *, frozen: bool = False) -> Arm:
    def run(seed: int, meter: Meter) -> None:
        task, model = digits(seed).to(meter.device), _Network(seed, alpha, core).to(meter.device)
        model.layer.requires_grad_(not frozen)
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=_RATE)
        for epoch in range(_EPOCHS):
            for x, y in batches(task, 64, seed, epoch):
                with meter.step("step", samples=len(x)):
                    optimizer.zero_grad()
                    nn.functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
            meter.judge(accuracy(model, task))

    return run


ABLATION = Ablation(
    name="hybrid_gradient",
    factor="analytic_gradient",
    claimed=50.0,
    task="digits, 1,437 images through a chain of 128 sites, accuracy on 360",
    arms={
        "autograd": _arm(core=_autograd),
        "exact": _arm(),
        "alpha 0": _arm(0.0),
        "alpha 0.25": _arm(0.25),
        "alpha 0.5": _arm(0.5),
        "alpha 0.75": _arm(0.75),
        "alpha 1": _arm(1.0),
        "not learned": _arm(frozen=True),
    },
    headline="exact",
    cost="time_s",
    margin=0.005,
    note="torch counts no FLOPs of recursions; the alphas are the published hybrid; `not learned` freezes potentials",
)
