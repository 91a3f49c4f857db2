"""An electrocardiogram in one dimension: beats that are made here, and a network for them.

No labelled recording ships in a package that is installed for the tests. A beat is the sum of five bell curves (P, Q,
R, S, T) at fixed fractions of it; two kinds differ in the width of QRS and the sign of T.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from passes.dataset import Array
from toolkit.rng import generator

__all__ = ["LENGTH", "beats", "network"]

LENGTH = 256
_CENTRES = (0.2, 0.37, 0.4, 0.43, 0.65)
_HEIGHTS = (0.15, -0.1, 1.0, -0.25, 0.35)
_WIDTHS = (0.025, 0.01, 0.012, 0.012, 0.04)


def beats(count: int, seed: int) -> Array:
    """(count, 1, LENGTH) float32; odd ones are of the second kind. Noise: 3 % of the height of R."""
    rng = generator(seed, "heartbeats")
    time = np.linspace(0, 1, LENGTH)
    made = np.zeros((count, 1, LENGTH))
    for i in range(count):
        wide = i % 2
        for centre, height, width in zip(_CENTRES, _HEIGHTS, _WIDTHS, strict=True):
            sign = -1 if wide and centre > 0.5 else 1
            spread = width * (2.2 if wide and 0.3 < centre < 0.5 else 1) * rng.uniform(0.9, 1.1)
            made[i, 0] += sign * height * np.exp(-(((time - centre - rng.normal(0, 0.01)) / spread) ** 2) / 2)
    return (made + rng.normal(0, 0.03, made.shape)).astype(np.float32)


def network() -> nn.Module:
    """Five convolutions in one dimension, one of them depthwise, with a residual; trained on 200 beats for a second."""
    torch.manual_seed(0)
    model = _Beats()
    x, y = torch.from_numpy(beats(200, 1)), torch.arange(200) % 2
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(20):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval()


class _Beats(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv1d(1, 16, 7, 2, 3), nn.Conv1d(16, 16, 5, 1, 2, groups=16)
        self.mix, self.down = nn.Conv1d(16, 16, 1), nn.Conv1d(16, 32, 5, 2, 2)
        self.last, self.tell = nn.Conv1d(32, 32, 3, 1, 1), nn.Linear(32, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x).relu()
        x = nn.functional.max_pool1d(x + self.mix(self.deep(x).relu()).relu(), 2)
        x = self.last(self.down(x).relu()).relu()
        return self.tell(x.mean(-1))
