"""Tiled attention for long sequences on a GPU: refined tiles by the block-sparse kernel, the others as their means.

The kernel takes one list of tiles of 128 by 128 for all heads and samples: tiles are chosen for all of them together.
It returns the logarithm of each row's sum of exponentials, by which both parts are put together:

    o = (1 − u) o_refined + u o_coarse,   u = sigmoid(lse_coarse − lse_refined)
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.attention import TILE, attention
from kernels.tile_means import add_tile_means, tile_priority
from toolkit.errors import GeometryError

__all__ = ["TILE", "block_sparse_attention", "chosen_tiles"]

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
    chosen = chosen_tiles(q, k, refine, causal=causal, scale=scale)
    exact = attention(q, k, v, causal=causal, tiles=chosen, scale=scale)
    if refine == len(chosen):
        return exact.out
    return add_tile_means(exact.out, exact.lse, q, k, v, chosen, causal=causal, scale=scale)


def chosen_tiles(q: Tensor, k: Tensor, refine: int, *, causal: bool = False, scale: float | None = None) -> Tensor:
    """(T, T) bool: the own tile, and those that hold most of the mass that may be, of all heads and samples.

    Raises:
        GeometryError: as `block_sparse_attention` does.
    """
    length, tiles = q.shape[2], q.shape[2] // TILE
    if length % TILE or not length:
        raise GeometryError(f"{length} tokens are not cut into tiles of {TILE}", hint=f"pad to a multiple of {TILE}")
    if not 1 <= refine <= tiles:
        raise GeometryError(f"{refine} of {tiles} tiles cannot be refined", hint=f"choose from 1 to {tiles}")
    found = torch.eye(tiles, dtype=torch.bool, device=q.device)
    if refine == tiles:
        found = torch.ones_like(found)
    elif refine > 1:
        wanted = tile_priority(q, k, causal=causal, scale=scale).masked_fill(found, -torch.inf)
        found = found.scatter(1, wanted.topk(refine - 1, dim=1).indices, True)
    return found.tril() if causal else found
