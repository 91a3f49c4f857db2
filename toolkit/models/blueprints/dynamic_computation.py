"""A cheap and a dear way through the network, chosen for each sample by what it looks like.

    gate = w · mean over time of norm(x) + b                         (B,)
    training:    x + p · heavy(x) + (1 − p) · light(x),  p = σ(gate / T)
    evaluation:  x + heavy(x) where gate > 0, else x + light(x)

In evaluation each way is computed for the samples that take it and for no others. Exported to ONNX every sample of the
batch has an If of its own, so that the operators of the way that is not taken do not run; in TorchScript the samples
are gathered and scattered, and the batch may vary. `build` sets b so that the share `heavy_share` of the calibration
signals takes the dear way.

Shapes: (B, L, W) to (B, L, W), (B, W) to (B, W). For: signals most of which are easy.

Sources: Bengio et al. 2015, arXiv:1511.06297 (conditional computation); Veit and Belongie 2018, arXiv:1711.11503
(soft gates in training, hard ones after).
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from toolkit.models.blueprints.motion_classifier import (
    MotionClassifier,
    MotionConfig,
    calibration,
    check_sequence,
    example,
    training,
    validation,
)
from toolkit.models.blueprints.written_norm import WrittenNorm
from toolkit.models.seeded import seeded

__all__ = [
    "Config", "DynamicComputation", "build", "calibration", "example", "training", "validation",
]  # fmt: skip


class Config(MotionConfig):
    """The two ways, and how often the dear one is taken."""

    light: Annotated[int, Field(ge=1, le=4096)] = 8
    """Hidden features of the cheap way."""
    heavy: Annotated[int, Field(ge=1, le=4096)] = 128
    """Hidden features of each of the two layers of the dear way."""
    heavy_share: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Of the calibration signals that take the dear way when the network is built."""
    temperature: Annotated[float, Field(gt=0, le=100)] = 1.0
    """Of the soft gate in training."""


class DynamicComputation(nn.Module):
    """x + light(norm(x)) or x + heavy(norm(x))."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        width, hidden = config.width, config.heavy
        self.temperature = config.temperature
        self.width = width
        self.norm = WrittenNorm(width)
        self.gate = nn.Linear(width, 1)
        self.light = nn.Sequential(nn.Linear(width, config.light), nn.ReLU(), nn.Linear(config.light, width))
        self.heavy = nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, W) or (B, W), as it came."""
        check_sequence(x, self.width)
        if x.ndim == 2:
            one: Tensor = self.forward(x.unsqueeze(1)).squeeze(1)
            return one
        normed = self.norm(x)
        gate = self._gate(normed)
        if self.training:
            share = torch.sigmoid(gate / self.temperature).reshape(-1, 1, 1).to(x.dtype)
            mixed: Tensor = x + share * self.heavy(normed) + (1 - share) * self.light(normed)
            return mixed
        exporting = torch.compiler.is_exporting()  # type: ignore[attr-defined]
        return x + (self._branched(normed, gate) if exporting else self._gathered(normed, gate)).to(x.dtype)

    def gates(self, x: Tensor) -> Tensor:
        """(B,): above 0 the dear way is taken."""
        return self._gate(self.norm(x.unsqueeze(1) if x.ndim == 2 else x))

    def _gate(self, normed: Tensor) -> Tensor:
        gate: Tensor = self.gate(normed.mean(1)).float().squeeze(-1)
        return gate

    def _gathered(self, normed: Tensor, gate: Tensor) -> Tensor:
        """Each way for the samples that take it; with the batch as it comes."""
        taken = gate > 0
        heavy, light = torch.nonzero(taken).squeeze(1), torch.nonzero(~taken).squeeze(1)
        found = torch.cat([self.light(normed[light]), self.heavy(normed[heavy])])
        return torch.index_select(found, 0, torch.argsort(torch.cat([light, heavy])))

    def _branched(self, normed: Tensor, gate: Tensor) -> Tensor:
        """A branch for each sample of a batch whose size is known."""
        ways = [torch.cond(gate[i] > 0, self.heavy, self.light, (normed[i : i + 1],)) for i in range(normed.shape[0])]
        return ways[0] if len(ways) == 1 else torch.cat(ways)


def build(config: Config = Config()) -> nn.Module:
    """The classifier of motion with one such block, its gate set on the calibration signals."""
    with seeded(config.seed):
        block = DynamicComputation(config)
        model = MotionClassifier(config.width, block).eval()
    signals = torch.cat([torch.from_numpy(sample["signal"]) for sample in calibration(config)])
    with torch.no_grad():
        gates = block.gates(model.embed(signals))
        block.gate.bias.sub_(torch.quantile(gates, 1 - config.heavy_share))
    return model
