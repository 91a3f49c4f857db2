"""Sparse attentions that tiles are compared with, of as many parameters: they look into four tiles of keys at most.

sdpa      every token before
window    the last tokens, as many as four tiles have (Beltagy et al. 2020, arXiv:2004.05150)
bigbird   the own tile, the one before, the first, and one that chance chose (Zaheer et al. 2020, arXiv:2007.14062)
nsa       compressed tiles, two selected by them besides the own, and a window of two, each behind a gate (after
          Yuan et al. 2025, arXiv:2502.11089; here the three share keys and values, and a tile is compressed to a
          weighted mean)
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from toolkit.models import transformer
from toolkit.models.decoder import Decoder
from toolkit.models.seeded import seeded
from toolkit.rng import numpy_generator

__all__ = ["PEERS", "Compressed", "Masked", "bigbird", "peer", "window"]

PEERS = ("sdpa", "window", "bigbird", "nsa")
_TILES = 4

# Legend: b samples, H heads, N tokens, T tiles of B tokens, d of a head


def peer(name: str, config: transformer.Config, tile: int) -> nn.Module:
    """The decoder of `config` with the attention called `name`, untrained."""
    if name == "sdpa":
        return transformer.build(config)
    with seeded(config.seed):
        return Decoder(config, (_attention(name, config, tile) for _ in range(config.blocks))).eval()


def _attention(name: str, config: transformer.Config, tile: int) -> nn.Module:
    if name == "nsa":
        return Compressed(config.width, config.heads, tile)
    mask = window(config.context, _TILES * tile) if name == "window" else bigbird(config.context, tile, config.seed)
    return Masked(config.width, config.heads, mask)


def window(length: int, width: int) -> Tensor:
    """(N, N) bool: the token itself and the `width` - 1 before it."""
    apart = torch.arange(length)[:, None] - torch.arange(length)
    return (apart >= 0) & (apart < width)


def bigbird(length: int, tile: int, seed: int) -> Tensor:
    """(N, N) bool of tiles: the own, the one before, the first, and an earlier one that `seed` decides; causal."""
    tiles = -(-length // tile)
    draw, seen = numpy_generator(seed, "bigbird"), torch.eye(tiles, dtype=torch.bool)
    seen[:, 0] = True
    for a in range(1, tiles):
        seen[a, a - 1] = True
        seen[a, int(draw.integers(0, a))] = True
    each = seen.repeat_interleave(tile, 0).repeat_interleave(tile, 1)[:length, :length]
    return each.tril()


class _Heads(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(b, H, N, d) of queries, keys and values."""
        q, k, v = (
            layer(x).reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        return q, k, v


class Masked(_Heads):
    """Attention over the tokens that a fixed mask (N, N) shows."""

    def __init__(self, width: int, heads: int, mask: Tensor) -> None:
        super().__init__(width, heads)
        self.mask: Tensor
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        shown = self.mask[: x.shape[1], : x.shape[1]]
        mixed = scaled_dot_product_attention(*self.split(x), attn_mask=shown)
        answer: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return answer


class Compressed(_Heads):
    """Three attentions, each behind a gate: over compressed tiles, over selected ones, over a window."""

    def __init__(self, width: int, heads: int, tile: int, *, selected: int = 2, near: int = 2) -> None:
        super().__init__(width, heads)
        self.tile, self.selected, self.near = tile, selected, near
        self.gate = nn.Linear(width, 3 * heads)
        self.pool = nn.Parameter(torch.zeros(tile))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(x)
        length, tiles = x.shape[1], x.shape[1] // self.tile
        own = torch.arange(length, device=x.device) // self.tile
        weight = self.pool.softmax(0)[:, None]
        coarse_k, coarse_v = ((y.reshape(*y.shape[:2], tiles, self.tile, -1) * weight).sum(3) for y in (k, v))
        earlier = torch.arange(tiles, device=x.device) < own[:, None]  # (N, T)
        logits = (q @ coarse_k.mT * q.shape[3] ** -0.5).masked_fill(~earlier, -3e4)
        p = logits.softmax(-1) * earlier
        with torch.no_grad():
            seen = torch.zeros_like(p[:, 0]).scatter(-1, p.sum(1).topk(self.selected, -1).indices, 1.0)
            seen = seen.scatter(-1, own[:, None].expand(len(x), -1, 1), 1.0)  # (b, N, T)
            before = window(length, length).to(x.device)
            chosen = seen.bool().repeat_interleave(self.tile, 2) & before
        near = window(length, self.near * self.tile).to(x.device)
        parts = (
            p @ coarse_v,
            scaled_dot_product_attention(q, k, v, attn_mask=chosen.unsqueeze(1)),
            scaled_dot_product_attention(q, k, v, attn_mask=near),
        )
        gates = torch.sigmoid(self.gate(x)).reshape(*x.shape[:2], 3, self.heads, 1).transpose(1, 3).unbind(2)
        mixed = sum(gate * part for gate, part in zip(gates, parts, strict=True))
        assert isinstance(mixed, Tensor)
        answer: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return answer
