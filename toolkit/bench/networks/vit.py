"""Networks on patches: vision transformers and the MLP mixer."""

from functools import partial

import torch
from torch import Tensor, nn

from .blocks import Act, Residual

_norm = partial(nn.LayerNorm, eps=1e-6)


class Attention(nn.Module):
    """Multi-head self-attention over (batch, tokens, width), spelled out in matrix products."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def bias(self, scores: Tensor) -> Tensor:
        """What is added to the scores before the softmax: nothing here."""
        return scores

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        weights = self.bias((q * self.scale) @ k.transpose(-2, -1)).softmax(-1)
        y: Tensor = self.project((weights @ v).transpose(1, 2).reshape(batch, tokens, width))
        return y


def perceptron(width: int, hidden: int, act: Act = nn.GELU) -> nn.Sequential:
    """Two linear layers."""
    return nn.Sequential(nn.Linear(width, hidden), act(), nn.Linear(hidden, width))


class _Patches(nn.Module):
    """Patches as tokens, a class token before them, positions added."""

    def __init__(self, width: int, patch: int, tokens: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, patch, patch)
        self.first = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.zeros(1, tokens + 1, width))

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).transpose(1, 2)
        return torch.cat((self.first.expand(x.shape[0], -1, -1), tokens), 1) + self.position


class _Take(nn.Module):
    """The first token, or the mean of all."""

    def __init__(self, *, mean: bool = False) -> None:
        super().__init__()
        self.mean = mean

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1) if self.mean else x[:, 0]


def vit(width: int, depth: int, heads: int, patch: int, *, height: int, wide: int) -> nn.Module:
    """Vision transformer: Dosovitskiy et al. 2021, arXiv:2010.11929, table 1; DeiT (arXiv:2012.12877) has the same."""
    blocks = nn.Sequential()
    for _ in range(depth):
        blocks.append(Residual(nn.Sequential(_norm(width), Attention(width, heads))))
        blocks.append(Residual(nn.Sequential(_norm(width), perceptron(width, 4 * width))))
    patches = _Patches(width, patch, (height // patch) * (wide // patch))
    return nn.Sequential(patches, blocks, _norm(width), _Take(), nn.Linear(width, 1000))


class _AcrossTokens(nn.Module):
    """Apply a module over the token axis."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x.transpose(1, 2)).transpose(1, 2)
        return y


class _Tokens(nn.Module):
    """Patches as tokens."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, patch, patch)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.embed(x).flatten(2).transpose(1, 2)
        return y


def mixer(width: int, depth: int, patch: int, *, height: int, wide: int) -> nn.Module:
    """MLP-Mixer: Tolstikhin et al. 2021, arXiv:2105.01601, table 1."""
    tokens, blocks = (height // patch) * (wide // patch), nn.Sequential()
    for _ in range(depth):
        across = _AcrossTokens(perceptron(tokens, width // 2))
        blocks.append(Residual(nn.Sequential(_norm(width), across)))
        blocks.append(Residual(nn.Sequential(_norm(width), perceptron(width, 4 * width))))
    return nn.Sequential(_Tokens(width, patch), blocks, _norm(width), _Take(mean=True), nn.Linear(width, 1000))


_SIZES = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
VIT = {f"vit_{size}_patch{patch}": partial(vit, *shape, patch) for size, shape in _SIZES.items() for patch in (16, 32)}
MIXER = {"mixer_base_patch16": partial(mixer, 768, 12, 16)}
