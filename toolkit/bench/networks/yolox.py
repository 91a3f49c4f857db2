"""YOLOX: anchor-free heads on a cross-stage Darknet, as exported (boxes undecoded, no suppression).

Ge et al. 2021, arXiv:2107.08430; Nano is the one with depthwise convolutions.
"""

from functools import partial

import torch
from torch import Tensor, nn

from .blocks import Concat, Make, Residual, conv, upsample

_CLASSES = 80
_conv = partial(conv, act=nn.SiLU)


def _separable(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(_conv(inputs, inputs, kernel, stride, groups=inputs), _conv(inputs, outputs))


class _Focus(nn.Module):
    """Every second pixel of every second row beside one another: four times the channels on half the size."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]), 1)


def _pools(width: int) -> nn.Module:
    """Pools of 5, 9 and 13 pixels beside the input, between two 1x1 convolutions."""
    half = width // 2
    pools = (nn.MaxPool2d(size, 1, size // 2) for size in (5, 9, 13))
    return nn.Sequential(_conv(width, half), Concat(nn.Identity(), *pools), _conv(4 * half, width))


class _YoloX(nn.Module):
    """Body, a pyramid upwards and downwards, and three decoupled heads."""

    def __init__(self, depth: float, width: float, *, light: bool = False) -> None:
        super().__init__()
        base = int(width * 64)
        a, b, c, d = 2 * base, 4 * base, 8 * base, 16 * base
        big = _separable if light else _conv
        repeats = max(round(depth * 3), 1)

        def stage(inputs: int, outputs: int, count: int = repeats, *, shortcut: bool = False) -> nn.Module:
            half = outputs // 2
            units = (nn.Sequential(_conv(half, half), big(half, half, 3)) for _ in range(count))
            chain = (Residual(unit) if shortcut else unit for unit in units)
            return nn.Sequential(
                Concat(nn.Sequential(_conv(inputs, half), *chain), _conv(inputs, half)), _conv(2 * half, outputs)
            )

        self.low = nn.Sequential(
            _Focus(), _conv(12, base, 3),
            big(base, a, 3, 2), stage(a, a, shortcut=True),
            big(a, b, 3, 2), stage(b, b, 3 * repeats, shortcut=True),
        )  # fmt: skip
        self.middle = nn.Sequential(big(b, c, 3, 2), stage(c, c, 3 * repeats, shortcut=True))
        self.top = nn.Sequential(big(c, d, 3, 2), _pools(d), stage(d, d))
        self.narrow = nn.ModuleList([_conv(d, c), _conv(c, b)])
        self.rise, self.up = upsample(), nn.ModuleList([stage(2 * c, c), stage(2 * b, b)])
        self.fall = nn.ModuleList([big(b, b, 3, 2), big(c, c, 3, 2)])
        self.down = nn.ModuleList([stage(2 * b, c), stage(2 * c, d)])
        hidden = int(256 * width)

        def head() -> nn.Sequential:
            return nn.Sequential(big(hidden, hidden, 3), big(hidden, hidden, 3))

        self.stems = nn.ModuleList(_conv(w, hidden) for w in (b, c, d))
        self.scores = nn.ModuleList(nn.Sequential(*head(), nn.Conv2d(hidden, _CLASSES, 1)) for _ in range(3))
        self.regions = nn.ModuleList(head() for _ in range(3))
        self.boxes = nn.ModuleList(nn.Conv2d(hidden, 4, 1) for _ in range(3))
        self.objects = nn.ModuleList(nn.Conv2d(hidden, 1, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        low = self.low(x)
        middle = self.middle(low)
        wide = self.narrow[0](self.top(middle))
        y = self.up[0](torch.cat((self.rise(wide), middle), 1))
        narrow = self.narrow[1](y)
        maps = [self.up[1](torch.cat((self.rise(narrow), low), 1))]
        for fall, down, other in zip(self.fall, self.down, (narrow, wide), strict=True):
            maps.append(down(torch.cat((fall(maps[-1]), other), 1)))
        made = []
        for i, y in enumerate(maps):
            y = self.stems[i](y)
            region = self.regions[i](y)
            score, sure = self.scores[i](y).sigmoid(), self.objects[i](region).sigmoid()
            made.append(torch.cat((self.boxes[i](region), sure, score), 1).flatten(2))
        return torch.cat(made, 2).transpose(1, 2)


YOLOX: dict[str, Make] = {
    "yolox_nano": partial(_YoloX, 0.33, 0.25, light=True),
    "yolox_tiny": partial(_YoloX, 0.33, 0.375),
    "yolox_s": partial(_YoloX, 0.33, 0.5),
}
