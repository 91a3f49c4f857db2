"""YuNet: Wu et al. 2023, "YuNet: a tiny millisecond-level face detector", as in its authors' `yunet_n.py`.

Boxes and landmarks undecoded. Sides are padded to multiples of 32 first, as OpenCV does.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import Make

_STRIDE = 32
_OUTPUTS = (1, 1, 4, 10)  # class, objectness, box, five landmarks


def _unit(inputs: int, outputs: int, *, active: bool = True) -> nn.Sequential:
    """Pointwise then depthwise convolution, both with bias, norm and activation."""
    body = nn.Sequential(nn.Conv2d(inputs, outputs, 1), nn.Conv2d(outputs, outputs, 3, padding=1, groups=outputs))
    return body.extend([nn.BatchNorm2d(outputs), nn.ReLU()] if active else [])


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(_unit(inputs, inputs), _unit(inputs, outputs))


class _YuNet(nn.Module):
    """Three maps of 64 channels, added on the way down, and four small heads on each."""

    def __init__(self) -> None:
        super().__init__()
        stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), _unit(16, 16))
        pools = [nn.MaxPool2d(2) for _ in range(4)]
        self.low = nn.Sequential(stem, pools[0], _block(16, 64), _block(64, 64), pools[1], _block(64, 64))
        self.middle, self.top = nn.Sequential(pools[2], _block(64, 64)), nn.Sequential(pools[3], _block(64, 64))
        self.laterals = nn.ModuleList(_unit(64, 64) for _ in range(3))
        self.shared = nn.ModuleList(_unit(64, 64) for _ in range(3))
        self.heads = nn.ModuleList(
            nn.ModuleList(_unit(64, outputs, active=False) for outputs in _OUTPUTS) for _ in range(3)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        down, right = -x.shape[2] % _STRIDE, -x.shape[3] % _STRIDE
        if down or right:
            x = F.pad(x, (0, right, 0, down))
        low = self.low(x)
        middle = self.middle(low)
        top = self.laterals[2](self.top(middle))
        middle = self.laterals[1](middle + F.interpolate(top, scale_factor=2.0))
        low = self.laterals[0](low + F.interpolate(middle, scale_factor=2.0))
        made: list[Tensor] = []
        for y, shared, heads in zip((low, middle, top), self.shared, self.heads, strict=True):
            assert isinstance(heads, nn.ModuleList)
            y = shared(y)
            grids = [head(y).permute(0, 2, 3, 1).flatten(1, 2) for head in heads]
            made += [grid.sigmoid() if i < 2 else grid for i, grid in enumerate(grids)]
        return tuple(made)


YUNET: dict[str, Make] = {"yunet": _YuNet}
