"""YOLOv2, up to its raw grid: Redmon and Farhadi 2017, arXiv:1612.08242, sections 3 and 2 (passthrough)."""

from functools import partial

import torch
from torch import Tensor, nn

from .blocks import Make, conv

_conv = partial(conv, act=partial(nn.LeakyReLU, 0.1))
_OUTPUTS = 5 * (80 + 5)

# channels of Darknet-19's 3x3 convolutions, whose every second is a 1x1 of half as many; a pool goes before each row
_ROWS = ((64,), (128, 64, 128), (256, 128, 256), (512, 256, 512, 256, 512), (1024, 512, 1024, 512, 1024))


class _YoloV2(nn.Module):
    """Darknet-19, and its last map but one folded beside the last."""

    def __init__(self) -> None:
        super().__init__()
        layers, width = [_conv(3, 32, 3)], 32
        rows: list[nn.Module] = []
        for row in _ROWS:
            chain = nn.Sequential(nn.MaxPool2d(2))
            for i, outputs in enumerate(row):
                chain.append(_conv(width, outputs, 1 if i % 2 else 3))
                width = outputs
            rows.append(chain)
        self.below = nn.Sequential(*layers, *rows[:4])
        self.above = nn.Sequential(rows[4], _conv(1024, 1024, 3), _conv(1024, 1024, 3))
        self.aside = nn.Sequential(_conv(512, 64), nn.PixelUnshuffle(2))
        self.grid = nn.Sequential(_conv(1024 + 256, 1024, 3), nn.Conv2d(1024, _OUTPUTS, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.below(x)
        y: Tensor = self.grid(torch.cat((self.aside(x), self.above(x)), 1))
        return y


YOLOV2: dict[str, Make] = {"yolov2": _YoloV2}
