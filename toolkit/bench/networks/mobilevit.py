"""MobileViT: Mehta and Rastegari 2022, arXiv:2110.02178, table 4: inverted residuals and transformers on patches."""

from functools import partial

import torch
from torch import Tensor, nn

from .blocks import Make, Residual, classifier, conv, inverted_residual
from .vit import Attention, perceptron

_PATCH, _HEADS = 2, 4
_conv = partial(conv, act=nn.SiLU)


class _MobileVit(nn.Module):
    """Local convolution, a transformer over the pixels at the same place of every patch, both concatenated."""

    def __init__(self, width: int, hidden: int, depth: int) -> None:
        super().__init__()
        self.local = nn.Sequential(_conv(width, width, 3), nn.Conv2d(width, hidden, 1, bias=False))
        self.blocks = nn.Sequential()
        for _ in range(depth):
            self.blocks.append(Residual(nn.Sequential(nn.LayerNorm(hidden), Attention(hidden, _HEADS))))
            self.blocks.append(Residual(nn.Sequential(nn.LayerNorm(hidden), perceptron(hidden, 2 * hidden, nn.SiLU))))
        self.blocks.append(nn.LayerNorm(hidden))
        self.back, self.merge = _conv(hidden, width), _conv(2 * width, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.local(x)
        batch, hidden, height, wide = y.shape
        rows, columns = height // _PATCH, wide // _PATCH
        y = y.reshape(batch * hidden * rows, _PATCH, columns, _PATCH).transpose(1, 2)
        y = y.reshape(batch, hidden, rows * columns, _PATCH**2).transpose(1, 3)
        y = self.blocks(y.reshape(batch * _PATCH**2, rows * columns, hidden))
        y = y.reshape(batch, _PATCH**2, rows * columns, hidden).transpose(1, 3)
        y = y.reshape(batch * hidden * rows, columns, _PATCH, _PATCH).transpose(1, 2)
        y = self.back(y.reshape(batch, hidden, height, wide))
        merged: Tensor = self.merge(torch.cat((x, y), 1))
        return merged


def mobilevit(expansion: int, widths: tuple[int, ...], hidden: tuple[int, int, int], head: int) -> nn.Module:
    """`widths` of stem and five stages; the last three hold transformers of `hidden` channels, 2, 4 and 3 deep."""
    layers, width = nn.Sequential(_conv(3, widths[0], 3, 2)), widths[0]
    for i, (outputs, repeats, stride) in enumerate(zip(widths[1:], (1, 3, 1, 1, 1), (1, 2, 2, 2, 2), strict=True)):
        for j in range(repeats):
            layers.append(inverted_residual(width, outputs, 3, stride if j == 0 else 1, expansion * width, act=nn.SiLU))
            width = outputs
        if i >= 2:
            layers.append(_MobileVit(width, hidden[i - 2], (2, 4, 3)[i - 2]))
    return layers.extend([_conv(width, head), classifier(head)])


MOBILEVIT: dict[str, Make] = {
    "mobilevit_s": partial(mobilevit, 4, (16, 32, 64, 96, 128, 160), (144, 192, 240), 640),
    "mobilevit_xxs": partial(mobilevit, 2, (16, 16, 24, 48, 64, 80), (64, 80, 96), 320),
}
