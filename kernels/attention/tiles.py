"""Block-sparse attention: which tiles of TILE queries by TILE keys are computed at all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["TILE", "tile_map"]

TILE = 128


def tile_map(tiles: Tensor | Sequence[tuple[int, int]], m: int, n: int, device: torch.device) -> Tensor:
    """(ceil(m / TILE), ceil(n / TILE)) bool: True where a tile is computed.

    Args:
        tiles: That map itself, or pairs (tile of queries, tile of keys), in any order; twice counts once.

    Raises:
        ValueError: the map has another shape, or a pair lies outside.
        TypeError: it is neither a map of bool nor pairs of integers.
    """
    shape = (-(-m // TILE), -(-n // TILE))
    if isinstance(tiles, Tensor) and tiles.dtype == torch.bool:
        if tiles.shape != shape:
            raise ValueError(f"the map of tiles must be {shape} for {m} queries and {n} keys, got {tuple(tiles.shape)}")
        return tiles.to(device)
    pairs = tiles.tolist() if isinstance(tiles, Tensor) else list(tiles)
    if not all(isinstance(pair, Sequence) and [type(i) for i in pair] == [int, int] for pair in pairs):
        raise TypeError(f"tiles must be a map of bool or pairs of integers, got {tiles}")
    if not all(0 <= row < shape[0] and 0 <= column < shape[1] for row, column in pairs):
        raise ValueError(f"tiles lie within {shape} for {m} queries and {n} keys, got {pairs}")
    found = torch.zeros(shape, dtype=torch.bool)
    for row, column in pairs:
        found[row, column] = True
    return found.to(device)
