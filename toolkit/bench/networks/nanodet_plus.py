"""NanoDet-Plus-m: ShuffleNet V2, a pyramid of ghost blocks and separable heads, boxes undecoded (RangiLyu/nanodet)."""

from functools import partial

import torch
from torch import Tensor, nn

from . import shufflenet
from .blocks import Concat, Make, Residual, conv, separable

_OUTPUTS, _SCORES = 80 + 4 * 8, 80
_leaky = partial(nn.LeakyReLU, 0.1)
_separable = partial(separable, act=_leaky, middle=_leaky)


def _ghost(inputs: int, outputs: int, *, active: bool) -> nn.Module:
    """Half of the channels from a 1x1 convolution, the others by filtering these (GhostNet, arXiv:1911.11907)."""
    act, half = _leaky if active else None, outputs // 2
    return nn.Sequential(conv(inputs, half, act=act), Concat(nn.Identity(), conv(half, half, 3, groups=half, act=act)))


def _bottleneck(inputs: int, width: int) -> nn.Module:
    """Two ghost modules beside a separable convolution of 5 pixels without activations."""
    body = nn.Sequential(_ghost(inputs, width, active=True), _ghost(width, width, active=False))
    return Residual(body, separable(inputs, width, 5, act=None, middle=None))


class _NanoDetPlus(nn.Module):
    def __init__(self, stages: tuple[int, int, int, int], width: int) -> None:
        super().__init__()
        made = shufflenet.v2_stages(stages, _leaky)
        self.stages = nn.ModuleList([nn.Sequential(*made[:2]), made[2], made[3]])
        self.narrow = nn.ModuleList(conv(w, width, act=_leaky) for w in stages[1:])
        self.rise = nn.Upsample(scale_factor=2, mode="bilinear")
        self.up, self.down = (nn.ModuleList(_bottleneck(2 * width, width) for _ in range(2)) for _ in range(2))
        self.fall = nn.ModuleList(_separable(width, width, 5, 2) for _ in range(2))
        self.coarse = nn.ModuleList(_separable(width, width, 5, 2) for _ in range(2))
        self.heads = nn.ModuleList(
            nn.Sequential(*(_separable(width, width, 5) for _ in range(2)), nn.Conv2d(width, _OUTPUTS, 1))
            for _ in range(4)
        )

    def forward(self, x: Tensor) -> Tensor:
        maps = []
        for stage, narrow in zip(self.stages, self.narrow, strict=True):
            x = stage(x)
            maps.append(narrow(x))
        low, middle, top = maps
        middle = self.up[0](torch.cat((self.rise(top), middle), 1))
        made = [self.up[1](torch.cat((self.rise(middle), low), 1))]
        for fall, down, other in zip(self.fall, self.down, (middle, top), strict=True):
            made.append(down(torch.cat((fall(made[-1]), other), 1)))
        made.append(self.coarse[0](top) + self.coarse[1](made[-1]))
        grids = torch.cat([head(y).flatten(2) for head, y in zip(self.heads, made, strict=True)], 2)
        scores, boxes = torch.split(grids, [_SCORES, _OUTPUTS - _SCORES], 1)
        return torch.cat((scores.sigmoid(), boxes), 1).transpose(1, 2)


NANODET_PLUS: dict[str, Make] = {"nanodet_plus_m_1.5": partial(_NanoDetPlus, (24, 176, 352, 704), 128)}
