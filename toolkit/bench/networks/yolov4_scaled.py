"""YOLOv4-CSP and YOLOv4x-Mish up to their raw grids: Wang et al. 2021, arXiv:2011.08036, and Darknet's cfg files."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from .blocks import Concat, Make, Residual, Taps, conv, upsample

_OUTPUTS = 3 * (80 + 5)
_conv = partial(conv, act=nn.Mish)


def _stage(inputs: int, width: int, repeats: int) -> nn.Module:
    """Halve the map; residual units on one half of the channels, a 1x1 convolution on the other."""
    half = width // 2
    units = (Residual(nn.Sequential(_conv(half, half), _conv(half, half, 3))) for _ in range(repeats))
    main = nn.Sequential(_conv(width, half), *units, _conv(half, half))
    return nn.Sequential(_conv(inputs, width, 3, 2), Concat(main, _conv(width, half)), _conv(width, width))


def _pairs(width: int, count: int) -> list[nn.Module]:
    return [m for _ in range(count) for m in (_conv(width, width), _conv(width, width, 3))]


def _cross(width: int, pairs: int) -> nn.Module:
    """Narrow a map of twice the width; pairs of 1x1 and 3x3 convolutions beside a 1x1; merge."""
    return nn.Sequential(
        _conv(2 * width, width),
        Concat(nn.Sequential(*_pairs(width, pairs)), _conv(width, width)),
        _conv(2 * width, width),
    )


def _pools(inputs: int, width: int, pairs: int) -> nn.Module:
    """Pools of 5, 9 and 13 pixels inside a cross stage; `pairs` of convolutions follow them."""
    pools = Concat(*(nn.MaxPool2d(size, 1, size // 2) for size in (13, 9, 5)), nn.Identity())
    after = [_conv(4 * width, width), _conv(width, width, 3), *_pairs(width, pairs - 1)]
    main = nn.Sequential(_conv(inputs, width), _conv(width, width, 3), _conv(width, width), pools, *after)
    return nn.Sequential(Concat(main, _conv(inputs, width)), _conv(2 * width, width))


class _Yolo(nn.Module):
    """`stages`: channels and residual units of the stages behind the first; `pairs`: depth of the neck."""

    def __init__(self, first: int, stages: Sequence[tuple[int, int]], pairs: int) -> None:
        super().__init__()
        stem = nn.Sequential(
            _conv(3, 32, 3),
            _conv(32, first, 3, 2),
            Residual(nn.Sequential(_conv(first, first // 2), _conv(first // 2, first, 3))),
        )
        widths = [first, *(width for width, _ in stages)]
        made = [_stage(a, b, n) for (a, b), (_, n) in zip(pairwise(widths), stages, strict=True)]
        self.body = Taps(nn.Sequential(stem, *made[:2]), *made[2:])
        low, middle, top = (width // 2 for width in widths[2:])
        self.top = _pools(2 * top, top, pairs - 1)
        self.rises = nn.ModuleList(nn.Sequential(_conv(a, b), upsample()) for a, b in ((top, middle), (middle, low)))
        self.laterals = nn.ModuleList(_conv(2 * w, w) for w in (middle, low))
        self.up = nn.ModuleList(_cross(w, pairs) for w in (middle, low))
        self.falls = nn.ModuleList(_conv(a, b, 3, 2) for a, b in ((low, middle), (middle, top)))
        self.down = nn.ModuleList(_cross(w, pairs) for w in (middle, top))
        self.grids = nn.ModuleList(
            nn.Sequential(_conv(w, 2 * w, 3), nn.Conv2d(2 * w, _OUTPUTS, 1)) for w in (low, middle, top)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        low, middle, y = self.body(x)
        y = self.top(y)
        kept = [y]
        for rise, lateral, up, x in zip(self.rises, self.laterals, self.up, (middle, low), strict=True):
            y = up(torch.cat((lateral(x), rise(y)), 1))
            kept.append(y)
        maps = [y]
        for fall, down, other in zip(self.falls, self.down, (kept[1], kept[0]), strict=True):
            maps.append(down(torch.cat((fall(maps[-1]), other), 1)))
        return tuple(grid(y) for grid, y in zip(self.grids, maps, strict=True))


SCALED_YOLOV4: dict[str, Make] = {
    "yolov4_csp": partial(_Yolo, 64, ((128, 2), (256, 8), (512, 8), (1024, 4)), 2),
    "yolov4x_mish": partial(_Yolo, 80, ((160, 3), (320, 10), (640, 10), (1280, 5)), 3),
}
