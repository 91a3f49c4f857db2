"""A sequence cut into tiles, and what stands for each tile of keys: a centre, a radius, a mean value, a count."""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import torch
from torch import Tensor
from torch.nn.functional import pad

from toolkit.geometry.neural.attention.scores import Score

__all__ = ["HIDDEN", "AttentionState", "cut", "joined", "prepare"]

HIDDEN = -3e4
"""What is added to a logit that nobody may see: within float16, and its exponential is 0. Logits stay far above it."""

# Legend: G heads of all samples, T tiles, B tokens in a tile, E numbers of a vector, F of features, D of a value


@dataclass(frozen=True)
class AttentionState:
    """Queries, keys and values in tiles, and the tiles of keys as what stands for them."""

    q: Tensor
    """(G, T, B, E), vectors of the score."""
    k: Tensor
    """(G, T, B, E)"""
    v: Tensor
    """(G, T, B, D)"""
    f: Tensor
    """(G, T, B, F), features of the queries."""
    asks: Tensor
    """(G, T, B, F), features of the queries by which a tile's others are chosen: its own, or the first of them and
    those before it, so that nothing of a later token reaches an earlier one by way of the choice."""
    silent: Tensor | None
    """(G, T, B), HIDDEN for those of `asks` that are no tokens; None where all are."""
    c: Tensor
    """(G, T, F), centres of the keys' features."""
    rho: Tensor
    """(G, T), no key of a tile is further from its centre; without a gradient."""
    vbar: Tensor
    """(G, T, D), mean values."""
    log_count: Tensor | float
    """Logarithm of the tokens in a tile, (G, T, 1) where tiles differ; HIDDEN of a tile without any."""
    valid: Tensor | None
    """(G, T, B), 1 where there is a token and 0 where there is none; None where all are."""
    tiles: int
    """T, a number also while a trace is taken; `tile` is B."""
    tile: int


def prepare(
    score: Score, q: Tensor, k: Tensor, v: Tensor, *, length: int, tile: int, valid: Tensor | None = None,
    earlier: bool = False, scale: float = 1.0,
) -> AttentionState:  # fmt: skip
    """Tiles of what one attention needs.

    Args:
        q, k: (b, H, N, m), states.
        v: (b, H, N, D).
        length: N.
        tile: B; the last tile is filled up with tokens that nobody sees.
        valid: (b, N) bool, False where nobody attends; None where all tokens count.
        earlier: Whether others are chosen by a tile's first query and those before it, instead of by its own.
        scale: Factor on the temperature.
    """
    tiles = -(-length // tile)
    q, k = score.vectors(q, k, scale)
    missing = tile * tiles - length
    q, k, v = (cut(x, tile, tiles, missing).contiguous() for x in (q, k, v))  # or every part would copy all of it
    counted = _counted(valid, k, score.heads, length, tile, tiles)
    features = score.features(k)
    if counted is None:
        mean, vbar = features.mean(2), v.mean(2)
        log_count: Tensor | float = log(tile)
    else:
        number = counted.sum(2, keepdim=True)
        weight = (counted / number.clamp_min(1)).unsqueeze(-1)
        mean, vbar = (features * weight).sum(2), (v * weight).sum(2)
        log_count = number.clamp_min(1).log() + HIDDEN * (number < 0.5).to(k.dtype)
        k = torch.cat([k[..., :-1], k[..., -1:] + HIDDEN * (1 - counted.unsqueeze(-1))], -1)
    c = score.centre(mean)
    apart = score.distances(features.detach(), c.detach())
    if counted is not None:
        apart = apart * counted
    f = asks = score.features(q)
    silent = None if counted is None else HIDDEN * (1 - counted)
    if earlier:
        asks = _before(f, tile, tiles)
        silent = None if silent is None else _before(silent.unsqueeze(-1), tile, tiles).squeeze(-1)
    return AttentionState(q, k, v, f, asks, silent, c, apart.amax(-1), vbar, log_count, counted, tiles, tile)


def cut(x: Tensor, tile: int, tiles: int, missing: int) -> Tensor:
    """(b, H, N, E) to (G, T, B, E), with zeros for what is missing."""
    if missing:
        x = pad(x, (0, 0, 0, missing))
    return x.reshape(-1, tiles, tile, x.shape[-1])


def joined(x: Tensor, heads: int, length: int) -> Tensor:
    """(G, T, B, D) to (b, N, H · D)."""
    x = x.reshape(-1, heads, x.shape[1] * x.shape[2], x.shape[3])
    return x[:, :, :length].transpose(1, 2).flatten(2)


def _before(f: Tensor, tile: int, tiles: int) -> Tensor:
    """Each tile's first query and the B − 1 before it; in front of the first tile zeros, which nobody looks at."""
    return pad(f.flatten(1, 2), (0, 0, tile - 1, 0))[:, : tiles * tile].reshape(-1, tiles, tile, f.shape[-1])


def _counted(
    valid: Tensor | None, like: Tensor, heads: int, length: int, tile: int, tiles: int
) -> Tensor | None:  # fmt: skip
    """(G, T, B) or, the same for all samples, (1, T, B): 1 where a token counts."""
    missing = tiles * tile - length
    if valid is None:
        if not missing:
            return None
        place = torch.arange(tiles * tile, device=like.device)
        return (place < length).to(like.dtype).reshape(1, tiles, tile)
    each = pad(valid.to(like.dtype), (0, missing)).reshape(-1, 1, tiles, tile)
    return each.expand(-1, heads, -1, -1).reshape(-1, tiles, tile)
