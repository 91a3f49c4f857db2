"""Gradients taken again for batches with nearly the same key, beside computing each.

A gradient taken four times is one long step, so rates matter: computing is at its best with three times the rate at
which reuse is, and has it. What else may be behind a saving is an arm too: batches left out, not reused.
"""

from __future__ import annotations

import torch
from torch import nn

from toolkit.bench.training_cost.ablation import Ablation, Arm
from toolkit.bench.training_cost.metering import Meter
from toolkit.bench.training_cost.tasks import accuracy, batches, digits, image_network, seeded
from toolkit.training.gradient_reuse import GradientReuse, Origin, batch_key

_EPOCHS, _RATE = 12, 9e-3


def _arm(threshold: float, longest: int, *, rate: float = _RATE, skip: bool = False) -> Arm:
    def run(seed: int, meter: Meter) -> None:
        task, model = digits(seed).to(meter.device), seeded(image_network, seed).to(meter.device)
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
        reuse = GradientReuse(model.parameters(), threshold=threshold, longest=longest)
        for epoch in range(_EPOCHS):
            for x, y in batches(task, 64, seed, epoch):
                with meter.step("key"):
                    key = batch_key(x, y, 10)
                    origin = reuse.origin_of(key)
                with meter.step(origin.value, samples=len(x)):
                    reuse.backward(key, lambda x=x, y=y: nn.functional.cross_entropy(model(x), y))  # type: ignore[misc]
                    if origin is not Origin.REUSED or not skip:
                        optimizer.step()
            if reuse.bias.audits:
                meter.gauge("bias", reuse.bias.bias)
            meter.judge(accuracy(model, task))

    return run


ABLATION = Ablation(
    name="gradient_reuse",
    factor="algorithms",
    claimed=10.0,
    task="digits, 1,437 images, 14,000 parameters, accuracy on 360",
    arms={
        "computed": _arm(1.0, 0),
        "a third of the rate": _arm(1.0, 0, rate=_RATE / 3),
        "once more": _arm(0.9, 1, rate=_RATE / 3),
        "up to 4 steps": _arm(0.9, 4, rate=_RATE / 3),
        "same rate": _arm(0.9, 4),
        "left out": _arm(0.9, 4, skip=True),
    },
    headline="up to 4 steps",
    margin=0.005,
    note="each at the better of two rates, but for `a third of the rate` and `same rate`; `left out` reuses nothing",
)
