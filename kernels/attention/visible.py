"""Which keys a query attends to, as far as places decide."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.attention.tiles import TILE

__all__ = ["places", "visible"]


def places(m: int, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Positions of m queries and n keys: the last of both stand at the same."""
    return torch.arange(m, device=device) + (n - m), torch.arange(n, device=device)


def visible(
    query: Tensor, key: Tensor, m: int, n: int, key_padding: Tensor | None, tiles: Tensor | None,
    causal: bool, window: int | None,
) -> Tensor | None:  # fmt: skip
    """Bool that broadcasts to (B, H, queries, keys): True where a query attends to a key; None where all do.

    Args:
        query: (queries,) positions of some of the m queries, on the axis of the keys.
        key: (keys,) positions of some of the n keys.
    """
    masks = []
    lag = query[:, None] - key[None, :]
    if causal:
        masks.append(lag >= 0)
    if window is not None:
        masks.append(lag.abs() <= window)
    if tiles is not None:
        masks.append(tiles[(query - (n - m))[:, None] // TILE, key[None, :] // TILE])
    if key_padding is not None:
        masks.append(key_padding[:, None, None, :].index_select(3, key).logical_not())
    found = None
    for mask in masks:
        found = mask if found is None else found & mask
    return found
