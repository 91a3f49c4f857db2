"""Gradient checkpointing: memory that is not held, and the time that it costs to compute it again."""

from __future__ import annotations

import torch
from torch import nn

from toolkit.bench.training_cost.ablation import Ablation, Arm
from toolkit.bench.training_cost.language import Size, learn_language
from toolkit.bench.training_cost.metering import Meter
from toolkit.bench.training_cost.methods.mixed_precision import transformer
from toolkit.training.recomputing import recomputing


class _Recomputed(nn.Module):
    """A model whose blocks hold their inputs alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with recomputing(self.model, wanted=True):
            found: torch.Tensor = self.model(x)
        return found


def _arm(again: bool) -> Arm:
    def make(size: Size) -> nn.Module:
        return _Recomputed(transformer(size)) if again else transformer(size)

    def run(seed: int, meter: Meter) -> None:
        torch.cuda.reset_peak_memory_stats(meter.device)

        def gauge() -> None:
            meter.gauge("peak_bytes", torch.cuda.max_memory_allocated(meter.device))

        learn_language(make, seed, meter, kind="bfloat16", gauge=gauge)

    return run


ABLATION = Ablation(
    name="recomputation",
    factor="algorithms",
    task="characters of Python's help, 19 M parameters, nats",
    arms={"held": _arm(False), "computed again": _arm(True)},
    headline="computed again",
    cost="peak_bytes",
    costs=("peak_bytes", "time_s"),
    margin=0.01,
    devices=("cuda",),
    note="memory, not time: the lines below say what it costs",
)
