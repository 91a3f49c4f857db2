"""Whisper's encoder: Radford et al. 2022, arXiv:2212.04356, table 1. Takes spectrograms of (batch, 80, frames)."""

from functools import partial

import torch
from torch import Tensor, nn

from .blocks import Make, Residual
from .vit import perceptron


class _Attention(nn.Module):
    """Multi-head self-attention whose keys have no bias."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.query, self.value, self.project = (nn.Linear(width, width) for _ in range(3))
        self.key = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, frames, width = x.shape
        q, k, v = (
            each(x).view(batch, frames, self.heads, width // self.heads).transpose(1, 2)
            for each in (self.query, self.key, self.value)
        )
        weights = ((q * self.scale) @ k.transpose(-2, -1)).softmax(-1)
        y: Tensor = self.project((weights @ v).transpose(1, 2).reshape(batch, frames, width))
        return y


class _Frames(nn.Module):
    """Two convolutions along time, the second of stride 2, and the positions added."""

    position: Tensor

    def __init__(self, width: int, frames: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv1d(80, width, 3, padding=1), nn.GELU(), nn.Conv1d(width, width, 3, 2, 1), nn.GELU()
        )
        self.register_buffer("position", torch.zeros(frames // 2, width))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x).transpose(1, 2) + self.position
        return y


def encoder(width: int, depth: int, *, frames: int = 3000) -> nn.Module:
    """Heads of 64 channels, norms before each part."""
    blocks = nn.Sequential()
    for _ in range(depth):
        blocks.append(Residual(nn.Sequential(nn.LayerNorm(width), _Attention(width, width // 64))))
        blocks.append(Residual(nn.Sequential(nn.LayerNorm(width), perceptron(width, 4 * width))))
    return nn.Sequential(_Frames(width, frames), blocks, nn.LayerNorm(width))


WHISPER: dict[str, Make] = {
    "whisper_tiny_encoder": partial(encoder, 384, 4),
    "whisper_base_encoder": partial(encoder, 512, 6),
}
