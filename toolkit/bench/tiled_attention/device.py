"""Block-sparse attention on a GPU beside torch's flash attention: 1/8 of the tiles at 16,384 tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from toolkit.bench.kernels.clock import seconds_in_turns
from toolkit.geometry.neural.attention.block_sparse import TILE, block_sparse_attention

__all__ = ["OnDevice", "on_device"]

_SHAPES = ((1, 16, 16_384, 64), (1, 16, 16_384, 128))
_SHARE = 8
_GOAL = 2.0


@dataclass(frozen=True, kw_only=True)
class OnDevice:
    """`ratio` is the time of flash attention over ours, medians; `error` of ours with all tiles, against flash."""

    device: str
    shape: str
    causal: bool
    refine: int
    tiles: int
    seconds: float | None
    flash_s: float | None
    ratio: float | None
    goal: float = _GOAL
    error: float | None = None
    note: str = ""


def on_device(name: str) -> Iterator[OnDevice]:
    """One row a shape; on another device than a GPU the rows say that nothing was measured."""
    for shape in _SHAPES:
        for causal in (False, True):
            tiles = shape[2] // TILE
            if name != "cuda":
                yield OnDevice(device=name, shape=str(shape), causal=causal, refine=tiles // _SHARE, tiles=tiles,
                               seconds=None, flash_s=None, ratio=None, note="not measured: --device cuda")  # fmt: skip
            else:
                yield _measured(shape, causal, tiles)


def _measured(shape: tuple[int, int, int, int], causal: bool, tiles: int) -> OnDevice:
    device = torch.device("cuda")
    generator = torch.Generator(device).manual_seed(0)
    q, k, v = (torch.randn(shape, device=device, generator=generator).to(torch.bfloat16) for _ in range(3))
    refine = tiles // _SHARE
    ours = partial(block_sparse_attention, q, k, v, refine, causal=causal)
    flash = partial(_flash, q, k, v, causal)
    taken = seconds_in_turns({"ours": ours, "flash": flash}, device)
    error = (block_sparse_attention(q, k, v, tiles, causal=causal) - flash()).abs().max().item()
    seconds, peer = median(taken["ours"]), median(taken["flash"])
    return OnDevice(device=torch.cuda.get_device_name(device), shape=str(shape), causal=causal, refine=refine,
                    tiles=tiles, seconds=seconds, flash_s=peer, ratio=peer / seconds, error=error)  # fmt: skip


def _flash(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Any:
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return scaled_dot_product_attention(q, k, v, is_causal=causal)
