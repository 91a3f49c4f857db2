"""Fast-SCNN: Poudel et al. 2019, arXiv:1902.04502, table 1; 19 classes, scores enlarged to the image."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import Make, conv, inverted_residual, separable

_CLASSES = 19


def _separable(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
    return separable(inputs, outputs, 3, stride, act=nn.ReLU, middle=nn.ReLU)


class _PyramidPool(nn.Module):
    """Averages over 1, 2, 3 and 6 cells a side, narrowed, enlarged and set beside the input (arXiv:1612.01105)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pools = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(cells), conv(width, width // 4)) for cells in (1, 2, 3, 6)
        )
        self.merge = conv(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[2:]
        parts = [F.interpolate(pool(x), size, mode="bilinear", align_corners=True) for pool in self.pools]
        y: Tensor = self.merge(torch.cat((x, *parts), 1))
        return y


class _FastScnn(nn.Module):
    """A fine map that a deep branch starts from, both added; two separable convolutions and the scores."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(conv(3, 32, 3, 2), _separable(32, 48, 2), _separable(48, 64, 2))
        self.deep, width = nn.Sequential(), 64
        for outputs, stride in ((64, 2), (96, 2), (128, 1)):
            for step in (stride, 1, 1):
                self.deep.append(inverted_residual(width, outputs, 3, step, 6 * width, act=nn.ReLU))
                width = outputs
        self.deep.append(_PyramidPool(128))
        self.near = nn.Sequential(nn.Conv2d(64, 128, 1), nn.BatchNorm2d(128))
        self.far = nn.Sequential(conv(128, 128, 3, groups=128), nn.Conv2d(128, 128, 1), nn.BatchNorm2d(128))
        self.scores = nn.Sequential(nn.ReLU(), _separable(128, 128), _separable(128, 128), nn.Conv2d(128, _CLASSES, 1))

    def forward(self, x: Tensor) -> Tensor:
        fine = self.fine(x)
        deep = F.interpolate(self.deep(fine), fine.shape[2:], mode="bilinear", align_corners=True)
        scores = self.scores(self.near(fine) + self.far(deep))
        return F.interpolate(scores, x.shape[2:], mode="bilinear", align_corners=True)


FAST_SCNN: dict[str, Make] = {"fast_scnn": _FastScnn}
