"""LeViT: Graham et al. 2021, arXiv:2104.01136, table 2: attention with narrow keys on shrinking maps of tokens."""

from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from .blocks import Make, Residual, conv

_act = nn.Hardswish


class _Linear(nn.Module):
    """A linear layer and a batch norm over (batch, tokens, channels)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        normed: Tensor = self.norm(y.flatten(0, 1)).reshape_as(y)
        return normed


def _perceptron(width: int) -> nn.Module:
    return Residual(nn.Sequential(_Linear(width, 2 * width), _act(), _Linear(2 * width, width)))


class _Attention(nn.Module):
    """Keys of `key` channels, values `ratio` times as wide, a learnt bias for every pair of places.

    `side` is the side of the square map of tokens; with `stride` 2 only every second place of every second row asks.
    """

    def __init__(self, inputs: int, outputs: int, key: int, heads: int, ratio: int, side: int, stride: int = 1) -> None:
        super().__init__()
        self.key, self.heads, self.value, self.side, self.stride = key, heads, ratio * key, side, stride
        self.ask = _Linear(inputs, key * heads)
        self.tell = _Linear(inputs, (key + self.value) * heads)
        self.project = nn.Sequential(_act(), _Linear(self.value * heads, outputs))
        self.biases = nn.Parameter(torch.zeros(heads, ((side - 1) // stride + 1) ** 2, side**2))

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        asking = x
        if self.stride > 1:
            places = x.view(batch, self.side, self.side, width)[:, :: self.stride, :: self.stride]
            asking = places.reshape(batch, -1, width)
        q = self.ask(asking).view(batch, -1, self.heads, self.key).transpose(1, 2)
        told = self.tell(x).view(batch, tokens, self.heads, self.key + self.value).transpose(1, 2)
        k, v = torch.split(told, [self.key, self.value], 3)
        weights = (q @ k.transpose(-2, -1) * self.key**-0.5 + self.biases).softmax(-1)
        seen = (weights @ v).transpose(1, 2).reshape(batch, -1, self.value * self.heads)
        y: Tensor = self.project(seen)
        return y


class _Tokens(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).transpose(1, 2)


class _Heads(nn.Module):
    """Mean of all tokens; the mean of the classifier and of the one that learnt from a teacher."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Sequential(nn.BatchNorm1d(width), nn.Linear(width, 1000)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        x = x.mean(1)
        one, other = (head(x) for head in self.heads)
        y: Tensor = (one + other) / 2
        return y


def levit(widths: tuple[int, int, int], heads: tuple[int, int, int], key: int, *, height: int, wide: int) -> nn.Module:
    """Four convolutions down to stride 16, then three stages of four blocks; square images only."""
    if height != wide:
        raise ValueError(f"LeViT takes square images, not {height}x{wide}")
    layers, side = nn.Sequential(), height // 16
    stem = [3, *(widths[0] // part for part in (8, 4, 2, 1))]
    for i, (a, b) in enumerate(pairwise(stem)):
        layers.append(conv(a, b, 3, 2, act=_act if i < 3 else None))
    layers.append(_Tokens())
    for i, (width, count) in enumerate(zip(widths, heads, strict=True)):
        if i:
            below = widths[i - 1]
            layers.append(_Attention(below, width, key, below // key, 4, side, stride=2))
            layers.append(_perceptron(width))
            side = (side - 1) // 2 + 1
        for _ in range(4):
            layers.append(Residual(_Attention(width, width, key, count, 2, side)))
            layers.append(_perceptron(width))
    return layers.append(_Heads(widths[-1]))


LEVIT: dict[str, Make] = {
    "levit_128": partial(levit, (128, 256, 384), (4, 8, 12), 16),
    "levit_256": partial(levit, (256, 384, 512), (4, 6, 8), 32),
}
