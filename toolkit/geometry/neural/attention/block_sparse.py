"""Tiled attention for long sequences on a GPU: refined tiles by the block-sparse kernel, the others as their means.

The kernel takes one list of tiles of 128 by 128 for all heads and samples: tiles are chosen for all of them together.
It returns the logarithm of each row's sum of exponentials, by which both parts are put together:

    o = (1 − u) o_refined + u o_coarse,   u = sigmoid(lse_coarse − lse_refined)
"""

from __future__ import annotations

from math import log

import torch
from torch import Tensor

from kernels.attention import TILE, attention
from toolkit.errors import GeometryError
from toolkit.geometry.neural.attention.choosing import hidden_tiles, log_sum_exp
from toolkit.geometry.neural.attention.tiles import HIDDEN

__all__ = ["TILE", "block_sparse_attention"]

# Legend: b samples, H heads, N tokens, T tiles of TILE tokens, d of a query and key, D of a value


def block_sparse_attention(
    q: Tensor, k: Tensor, v: Tensor, refine: int, *, causal: bool = False, scale: float | None = None
) -> Tensor:
    """softmax(scale q kᵀ) v with `refine` tiles of keys exact for each tile of queries, the own among them.

    Args:
        q, k: (b, H, N, d), N a multiple of 128, d from 16 to 256.
        v: (b, H, N, D).
        refine: R; with R = T the answer is that of dense attention.
        scale: Factor on the logits; 1 / √d where not given.

    Returns:
        (b, H, N, D) in the dtype of `q`. Tiles are chosen by their own queries: see `choosing`.

    Raises:
        GeometryError: N is no multiple of 128, or R is out of range.
        ValueError: what `kernels.attention` refuses.
    """
    length, tiles = q.shape[2], q.shape[2] // TILE
    if length % TILE or not length:
        raise GeometryError(f"{length} tokens are not cut into tiles of {TILE}", hint=f"pad to a multiple of {TILE}")
    if not 1 <= refine <= tiles:
        raise GeometryError(f"{refine} of {tiles} tiles cannot be refined", hint=f"choose from 1 to {tiles}")
    factor = q.shape[3] ** -0.5 if scale is None else scale
    keys = _in_tiles(k)
    centres = keys.mean(3)
    wide = torch.promote_types(q.dtype, torch.float32)
    coarse = (q @ centres.transpose(-1, -2)).to(wide).mul_(factor).add_(log(TILE))
    chosen = _chosen(q, keys, centres, coarse, refine, factor, causal)
    exact = attention(q, k, v, causal=causal, tiles=chosen, scale=factor)
    if refine == tiles:
        return exact.out
    unseen = (hidden_tiles(tiles, causal, coarse) + HIDDEN * chosen).repeat_interleave(TILE, 0)
    coarse += unseen
    top = coarse.amax(-1, keepdim=True)
    weight = (coarse - top).exp_()
    total = weight.sum(-1, keepdim=True)
    means = _in_tiles(v).mean(3)
    mixed = (weight.to(v.dtype) @ means).to(wide) / total
    share = torch.sigmoid(total.log() + top - exact.lse.unsqueeze(-1))
    return torch.lerp(exact.out.to(wide), mixed, share).to(q.dtype)


def _chosen(
    q: Tensor, keys: Tensor, centres: Tensor, coarse: Tensor, refine: int, factor: float, causal: bool
) -> Tensor:
    """(T, T) bool: the tiles that hold most of the mass that may be, of all heads and samples."""
    rho = (keys - centres.unsqueeze(3)).to(coarse.dtype).square().sum(-1).amax(-1).sqrt()  # (b, H, T)
    z = torch.linalg.vector_norm(q.to(coarse.dtype), dim=-1, keepdim=True) * (rho.unsqueeze(2) * factor)
    hidden = hidden_tiles(centres.shape[2], causal, coarse)
    own = torch.eye(centres.shape[2], dtype=coarse.dtype, device=coarse.device)
    share = coarse - log_sum_exp(coarse, -1)
    each = log_sum_exp(_in_tiles(share + torch.minimum(z, z * z * 0.5)), 3)
    wanted = each.squeeze(3).logsumexp((0, 1)) + hidden + own * HIDDEN
    found = own > 0
    if refine > 1:
        found = found.scatter(1, wanted.topk(refine - 1, dim=1).indices, True)
    return found.tril() if causal else found


def _in_tiles(x: Tensor) -> Tensor:
    """(b, H, N, E) to (b, H, T, TILE, E)."""
    return x.reshape(*x.shape[:2], -1, TILE, x.shape[3])
