"""Attention with its statistics as they are defined: the whole matrix of probabilities, written to be read."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.attention.visible import places, visible

__all__ = ["attention", "expand", "statistics"]


def attention(
    q: Tensor, k: Tensor, v: Tensor, key_padding: Tensor | None, tiles: Tensor | None,
    causal: bool, window: int | None, scale: float, return_stats: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """(out, lse, statistics (5, B, H)), differentiable as often as one likes; what is exported."""
    batch, heads, m, _ = q.shape
    n = k.shape[2]
    query, key = places(m, n, q.device)
    logits = (q @ expand(k, heads).mT * scale).to(_sums_in(q.dtype))
    seen = visible(query, key, m, n, key_padding, tiles, causal, window)
    if seen is not None:
        logits = torch.where(seen, logits, -torch.inf)
        empty = seen.expand(batch, heads, m, n).logical_not().all(3, keepdim=True)
        logits = torch.where(empty, 0.0, logits)  # a row of nothing has no softmax
    lse = logits.logsumexp(3)
    p = (logits - lse[..., None]).exp()
    if seen is not None:
        p = torch.where(seen, p, 0.0)
        lse = torch.where(empty[..., 0], -torch.inf, lse)
    out = p.to(q.dtype) @ expand(v, heads)
    stats = statistics(p.detach(), query, key) if return_stats else lse.new_zeros(0, batch, heads)
    return out, lse, stats


def statistics(p: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """(5, B, H) of probabilities (B, H, M, N): means over the rows that are not all zero; 0 where there are none.

    Span, the mean distance |i - j|; entropy in nats; variance of the key's position; the largest probability; effective
    support 1 / sum p².
    """
    i, j = query.to(p.dtype), key.to(p.dtype)
    span = (p * (i[:, None] - j).abs()).sum(3)
    entropy = -torch.where(p == 0, 0.0, p * p.clamp_min(torch.finfo(p.dtype).tiny).log()).sum(3)
    mean = (p * j).sum(3, keepdim=True)
    variance = (p * (j - mean).square()).sum(3)
    square = p.square().sum(3)
    counted = square != 0
    rows = torch.stack([span, entropy, variance, p.amax(3), 1 / torch.where(counted, square, 1.0)])
    return torch.where(counted, rows, 0.0).sum(3) / counted.sum(2).clamp_min(1)


def expand(x: Tensor, heads: int) -> Tensor:
    """(B, shared, N, d) to (B, heads, N, d): head h reads what heads // shared of them share."""
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], dim=1)


def _sums_in(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32
