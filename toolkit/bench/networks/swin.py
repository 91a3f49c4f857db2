"""Swin transformer, windows of seven patches: Liu et al. 2021, arXiv:2103.14030."""

from functools import partial

import torch
from torch import Tensor, nn

from .blocks import Residual
from .vit import Attention, perceptron

_WINDOW = 7


class _Windowed(Attention):
    """Attention inside windows of an image of (batch, height, width, channels), with relative positions.

    A shifted layer rolls the image first and masks what was not adjacent before.
    """

    def __init__(self, width: int, heads: int, side: int) -> None:
        super().__init__(width, heads)
        self.side, self.shift = side, 0
        self.table = nn.Parameter(torch.zeros((2 * _WINDOW - 1) ** 2, heads))
        at = torch.stack(torch.meshgrid(torch.arange(_WINDOW), torch.arange(_WINDOW), indexing="ij")).flatten(1)
        offset = at[:, :, None] - at[:, None, :] + _WINDOW - 1
        self.register_buffer("index", (offset[0] * (2 * _WINDOW - 1) + offset[1]).flatten())
        self.register_buffer("mask", torch.zeros((side // _WINDOW) ** 2, 1, _WINDOW**2, _WINDOW**2))

    def bias(self, scores: Tensor) -> Tensor:
        index, mask = self.get_buffer("index"), self.get_buffer("mask")
        positions = self.table[index].view(_WINDOW**2, _WINDOW**2, self.heads).permute(2, 0, 1)
        scores = scores + positions
        return scores + mask.repeat(scores.shape[0] // mask.shape[0], 1, 1, 1) if self.shift else scores

    def forward(self, x: Tensor) -> Tensor:
        batch, _, _, width = x.shape
        count = self.side // _WINDOW
        if self.shift:
            x = x.roll((-self.shift, -self.shift), (1, 2))
        windows = x.view(batch, count, _WINDOW, count, _WINDOW, width).transpose(2, 3).reshape(-1, _WINDOW**2, width)
        y = super().forward(windows)
        y = (
            y.view(batch, count, count, _WINDOW, _WINDOW, width)
            .transpose(2, 3)
            .reshape(batch, self.side, self.side, width)
        )
        return y.roll((self.shift, self.shift), (1, 2)) if self.shift else y


class _Merge(nn.Module):
    """Four neighbouring patches become one of twice the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduce = nn.Sequential(nn.LayerNorm(4 * width), nn.Linear(4 * width, 2 * width, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        batch, height, side, width = x.shape
        y = x.view(batch, height // 2, 2, side // 2, 2, width).permute(0, 1, 3, 4, 2, 5).flatten(3)
        reduced: Tensor = self.reduce(y)
        return reduced


class _Embed(nn.Module):
    """Patches of four pixels, channels last."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed, self.norm = nn.Conv2d(3, width, 4, 4), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.embed(x).permute(0, 2, 3, 1))
        return y


class _Mean(nn.Module):
    """The mean over height and width."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((1, 2))


def swin(width: int, depths: tuple[int, ...], heads: int) -> nn.Module:
    """Swin for 224 pixels; every second layer of a stage is shifted, except where one window covers the image."""
    layers: list[nn.Module] = [_Embed(width)]
    side = 224 // 4
    for stage, depth in enumerate(depths):
        if stage:
            layers.append(_Merge(width))
            width, side, heads = 2 * width, side // 2, 2 * heads
        for i in range(depth):
            attention = _Windowed(width, heads, side)
            attention.shift = _WINDOW // 2 if i % 2 and side > _WINDOW else 0
            layers.append(Residual(nn.Sequential(nn.LayerNorm(width), attention)))
            layers.append(Residual(nn.Sequential(nn.LayerNorm(width), perceptron(width, 4 * width))))
    return nn.Sequential(*layers, nn.LayerNorm(width), _Mean(), nn.Linear(width, 1000))


SWIN = {"swin_tiny": partial(swin, 96, (2, 2, 6, 2), 3), "swin_base": partial(swin, 128, (2, 2, 18, 2), 4)}
