"""Dual path network 68: Chen et al. 2017, arXiv:1707.01629, table 1."""

import torch
from torch import Tensor, nn

from .blocks import classifier, conv


def _normed(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Norm and activation, then the convolution."""
    return nn.Sequential(
        nn.BatchNorm2d(inputs),
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
    )


class _Dual(nn.Module):
    """A bottleneck whose output is split: the first `summed` channels are added, the others appended."""

    def __init__(self, inputs: int, hidden: int, summed: int, grown: int, stride: int, *, project: bool) -> None:
        super().__init__()
        self.summed = summed
        self.project = _normed(inputs, summed + 2 * grown, 1, stride) if project else None
        self.body = nn.Sequential(
            _normed(inputs, hidden), _normed(hidden, hidden, 3, stride, 32), _normed(hidden, summed + grown)
        )

    def forward(self, x: Tensor) -> Tensor:
        kept = self.project(x) if self.project is not None else x
        made = self.body(x)
        return torch.cat(
            (kept[:, : self.summed] + made[:, : self.summed], kept[:, self.summed :], made[:, self.summed :]), 1
        )


def dpn68() -> nn.Module:
    """Stem of ten channels, four stages, activated head."""
    layers: list[nn.Module] = [conv(3, 10, 3, 2), nn.MaxPool2d(3, 2, 1)]
    width = 10
    for i, (repeats, grown) in enumerate(zip((3, 4, 12, 3), (16, 32, 32, 64), strict=True)):
        hidden, summed = 128 << i, 64 << i
        for j in range(repeats):
            layers.append(_Dual(width, hidden, summed, grown, 2 if i and j == 0 else 1, project=j == 0))
            width = summed + 3 * grown if j == 0 else width + grown
    return nn.Sequential(*layers, nn.BatchNorm2d(width), nn.ReLU(), classifier(width))


DPN = {"dpn68": dpn68}
