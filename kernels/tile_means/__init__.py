"""Tiles of keys that attention does not look into, as their means: which ones those may be, and what they add."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.attention.tiles import TILE
from kernels.exporting import exporting
from kernels.tile_means import operators, reference

__all__ = ["TILE", "add_tile_means", "tile_priority"]


def tile_priority(q: Tensor, k: Tensor, *, causal: bool = False, scale: float | None = None) -> Tensor:
    """How much of the attention of each tile of queries may lie in each tile of keys, over all heads and samples.

    logsumexp over samples, heads and queries i of the tile of (S_ib + δ_ib − logsumexp over b of S_i), with S_ib the
    logit of i at the mean of tile b, and δ = min(z, z² / 2), z = scale |q_i| ρ_b, how far the mean exponential of the
    tile's logits may be above that of its centre; ρ_b is the largest distance of its keys from it.

    Args:
        q, k: (B, H, N, d) floating point, N a multiple of TILE.
        causal: Tiles behind the own count for nothing.
        scale: Factor on the logits; 1 / sqrt(d) where not given.

    Returns:
        (T, T) in float32 (float64 for float64), T = N / TILE; without a gradient.

    Raises:
        ValueError: shapes, dtypes or devices do not match, or N is no multiple of TILE.

    Source: Hoeffding 1963 (δ); Zeng et al. 2022, arXiv:2207.10284 (refine the blocks with large coarse coefficients).
    """
    _check(q, k, k)
    scale = q.shape[3] ** -0.5 if scale is None else scale
    compute = reference.tile_priority if exporting() else operators.tile_priority
    return compute(q.detach(), k.detach(), causal, float(scale))


def add_tile_means(
    out: Tensor, lse: Tensor, q: Tensor, k: Tensor, v: Tensor, seen: Tensor, *, causal: bool = False,
    scale: float | None = None,
) -> Tensor:  # fmt: skip
    """Attention over some tiles of keys, and over the means of the others: one softmax over both.

    o = (1 − u) out + u Σ_b p_b v̄_b,   u = sigmoid(lse of the means − lse); a mean counts for TILE keys.

    Args:
        out, lse: (B, H, N, dv) and (B, H, N), what `kernels.attention` gave for the tiles that were seen.
        q, k, v: As there; N a multiple of TILE.
        seen: (T, T) bool, True where the tile of queries has looked into the tile of keys.
        causal: Means of tiles behind the own are not looked at.
        scale: Factor on the logits; 1 / sqrt(d) where not given.

    Returns:
        (B, H, N, dv) in the dtype of `out`; differentiable, then in plain torch.

    Raises:
        ValueError: as `tile_priority`, or `out`, `lse` or `seen` has another shape.
    """
    _check(q, k, v)
    tiles = q.shape[2] // TILE
    wanted = (*q.shape[:3], v.shape[3]), tuple(q.shape[:3]), (tiles, tiles)
    found = tuple(out.shape), tuple(lse.shape), tuple(seen.shape)
    if found != wanted or seen.dtype != torch.bool:
        raise ValueError(f"out, lse and seen must be {wanted}, seen of bool, got {found}, seen of {seen.dtype}")
    scale = q.shape[3] ** -0.5 if scale is None else scale
    differentiated = torch.is_grad_enabled() and any(x.requires_grad for x in (out, lse, q, k, v))
    compute = reference.add_tile_means if exporting() or differentiated else operators.add_tile_means
    return compute(out, lse, q, k, v, seen, causal, float(scale))


def _check(q: Tensor, k: Tensor, v: Tensor) -> None:
    if not q.ndim == k.ndim == v.ndim == 4 or q.shape != k.shape or v.shape[:3] != q.shape[:3]:
        shapes = f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
        raise ValueError(f"q and k must both be (B, H, N, d), v (B, H, N, dv), got {shapes}")
    if len({(x.dtype, x.device) for x in (q, k, v)}) > 1 or not q.dtype.is_floating_point:
        raise ValueError(f"q, k and v must be floating point of one dtype on one device, got {q.dtype} on {q.device}")
    if q.shape[2] % TILE or not q.numel():
        raise ValueError(f"the number of tokens must be a multiple of {TILE}, got {q.shape[2]}")
