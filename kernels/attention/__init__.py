"""Attention with the statistics of its distribution from the same pass; no matrix of queries by keys is ever stored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from kernels.attention import operators, reference
from kernels.attention.operators import workspace_bytes
from kernels.attention.tiles import TILE, tile_map
from kernels.exporting import exporting

__all__ = ["TILE", "AttentionOut", "AttentionStats", "attention", "workspace_bytes"]

WIDTHS = range(16, 257)
_DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


class AttentionStats(NamedTuple):
    """Each (B, H), the mean over a head's queries of what their distributions over keys are like.

    They carry no gradient. Float32, or float64 for float64. 0 where no query of a head attends to anything.
    """

    span: Tensor
    """Mean distance between query and key, in positions; query i stands at i + N - M."""

    entropy: Tensor
    """Nats."""

    position_var: Tensor
    """Variance of the key's position, in positions squared."""

    max_prob: Tensor
    effective_support: Tensor
    """1 / sum of squared probabilities: how many keys as many equal probabilities would be."""


class AttentionOut(NamedTuple):
    """`out` (B, H, M, dv), `lse` (B, H, M) the logarithm of a row's sum of exponentials, `stats` where asked for."""

    out: Tensor
    lse: Tensor
    stats: AttentionStats | None


def attention(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, key_padding: Tensor | None = None,
    window: int | None = None, tiles: Tensor | Sequence[tuple[int, int]] | None = None, scale: float | None = None,
    return_stats: bool = False,
) -> AttentionOut:  # fmt: skip
    """softmax(scale q kᵀ) v, and what the softmax was like; differentiable once, by out and lse.

    Queries and keys are aligned at their ends: query i stands at position i + N - M, key j at j.

    Args:
        q: (B, H, M, d) bfloat16, float16, float32 or float64; 16 <= d <= 256.
        k: (B, K, N, d), H a multiple of K: head h reads keys h // (H / K). Dtype and device of `q`.
        v: (B, K, N, dv); 16 <= dv <= 256.
        causal: Queries attend to keys at their own position and before.
        key_padding: (B, N) bool, True where nobody attends to a key; what it holds must still be finite.
        window: Queries attend to keys at most this far from their position.
        tiles: Only these tiles of TILE queries by TILE keys are computed: pairs (tile of queries, tile of keys), or
            a map of bool (ceil(M / TILE), ceil(N / TILE)), which on a GPU nobody waits for.
        scale: Factor on the logits, positive; 1 / sqrt(d) where not given.
        return_stats: Whether `stats` is computed.

    Returns:
        `out` in the dtype of `q`, `lse` in float32 (float64 for float64), `stats` or None. A query that attends to
        nothing has out 0 and lse -inf and does not count in the statistics. NaN and infinity in q, k or v go on to
        the queries that attend to them, and may reach others beside them in a tile.

    Raises:
        ValueError: shapes, dtypes or devices do not match; a width, `window` or `scale` out of range; tiles outside.
        TypeError: numbers that are not floating point, `key_padding` that is not bool.
        MemoryError: what `workspace_bytes` says cannot be had; raised before anything runs.
        KernelUnavailable: KERNELS_FORM names a form that does not take this call.

    Source: Milakov, Gimelshein 2018, arXiv:1805.02867 (the running softmax); Dao et al. 2022, arXiv:2205.14135 (tiles).
    """
    _check(q, k, v, key_padding, window)
    scale = q.shape[3] ** -0.5 if scale is None else scale
    if not (scale > 0 and math.isfinite(scale)):
        raise ValueError(f"scale must be positive and finite, got {scale}")
    wanted = None if tiles is None else tile_map(tiles, q.shape[2], k.shape[2], q.device)
    compute = reference.attention if exporting() else operators.attention
    out, lse, stats = compute(q, k, v, key_padding, wanted, causal, window, float(scale), return_stats)
    return AttentionOut(out, lse, AttentionStats(*stats.detach()) if return_stats else None)


def _check(q: Tensor, k: Tensor, v: Tensor, key_padding: Tensor | None, window: int | None) -> None:
    shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
    if not q.ndim == k.ndim == v.ndim == 4:
        raise ValueError(f"q, k and v have four dimensions (B, H, length, width), got {shapes}")
    if q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3] or k.shape[:3] != v.shape[:3]:
        raise ValueError(f"q (B, H, M, d), k (B, K, N, d) and v (B, K, N, dv) do not match: {shapes}")
    if k.shape[1] == 0 or q.shape[1] % k.shape[1]:
        raise ValueError(f"the heads of q are a multiple of those of k and v, got {q.shape[1]} and {k.shape[1]}")
    for width in (q.shape[3], v.shape[3]):
        if width not in WIDTHS:
            raise ValueError(f"widths of heads go from {WIDTHS[0]} to {WIDTHS[-1]}, got {width}")
    if len({(x.dtype, x.device) for x in (q, k, v)}) > 1:
        found = ", ".join(f"{name} {x.dtype} on {x.device}" for name, x in {"q": q, "k": k, "v": v}.items())
        raise ValueError(f"q, k and v must be of one dtype on one device, got {found}")
    if q.dtype not in _DTYPES:
        raise TypeError(f"attention is of bfloat16, float16, float32 or float64, got {q.dtype}")
    if key_padding is not None:
        _check_padding(key_padding, k)
    if window is not None and window < 0:
        raise ValueError(f"window is a distance, 0 or more, got {window}")


def _check_padding(key_padding: Tensor, k: Tensor) -> None:
    if key_padding.dtype != torch.bool:
        raise TypeError(f"key_padding is bool, True where nobody attends, got {key_padding.dtype}")
    if key_padding.shape != (k.shape[0], k.shape[2]) or key_padding.device != k.device:
        wanted = (k.shape[0], k.shape[2])
        raise ValueError(
            f"key_padding is (B, N) = {wanted} on {k.device}, got {tuple(key_padding.shape)} on {key_padding.device}"
        )
