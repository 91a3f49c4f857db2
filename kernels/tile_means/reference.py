"""Tiles of keys as their means, written down: the matrix of queries by tiles is stored, several times."""

from __future__ import annotations

from math import log

import torch
from torch import Tensor

from kernels.attention.tiles import TILE

__all__ = ["add_tile_means", "tile_priority"]

# Legend: B samples, H heads, N tokens, T tiles, d of a query and key, dv of a value


def tile_priority(q: Tensor, k: Tensor, causal: bool, scale: float) -> Tensor:
    """What `kernels.tile_means.tile_priority` describes: (T, T)."""
    wide = _wide(q)
    keys = _in_tiles(k)
    centres = keys.mean(3)
    radii = (keys - centres.unsqueeze(3)).to(wide).square().sum(-1).amax(-1).sqrt()  # (B, H, T)
    logits = _logits(q, centres, scale)
    if causal:
        logits = logits.masked_fill(_later(logits), -torch.inf)
    z = torch.linalg.vector_norm(q.to(wide), dim=-1, keepdim=True) * radii.unsqueeze(2) * scale
    share = logits - logits.logsumexp(-1, keepdim=True) + torch.minimum(z, z * z * 0.5)
    return _in_tiles(share).logsumexp(3).logsumexp((0, 1))


def add_tile_means(
    out: Tensor, lse: Tensor, q: Tensor, k: Tensor, v: Tensor, seen: Tensor, causal: bool, scale: float
) -> Tensor:
    """What `kernels.tile_means.add_tile_means` describes: (B, H, N, dv)."""
    logits = _logits(q, _in_tiles(k).mean(3), scale) + log(TILE)
    hidden = seen.repeat_interleave(TILE, 0)
    if causal:
        hidden = hidden | _later(logits)
    logits = logits.masked_fill(hidden, -torch.inf)
    top = logits.amax(-1, keepdim=True).clamp_min(torch.finfo(logits.dtype).min)  # of a query that sees no mean
    weight = (logits - top).exp()
    total = weight.sum(-1, keepdim=True)
    mixed = (weight.to(v.dtype) @ _in_tiles(v).mean(3)).to(logits.dtype) / torch.where(total > 0, total, 1)
    share = torch.where(total > 0, torch.sigmoid(total.log() + top - lse.unsqueeze(-1)), 0)
    return torch.lerp(out.to(logits.dtype), mixed, share).to(out.dtype)


def _logits(q: Tensor, centres: Tensor, scale: float) -> Tensor:
    """(B, H, N, T)"""
    return (q @ centres.transpose(-1, -2)).to(_wide(q)) * scale


def _later(logits: Tensor) -> Tensor:
    """(N, T) bool: tiles behind the query's own."""
    place = torch.arange(logits.shape[2], device=logits.device) // TILE
    return torch.arange(logits.shape[3], device=logits.device) > place[:, None]


def _in_tiles(x: Tensor) -> Tensor:
    """(B, H, N, E) to (B, H, T, TILE, E)."""
    return x.reshape(*x.shape[:2], -1, TILE, x.shape[3])


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
