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

from kernels.attention import attention
from kernels.tile_means import reference
from toolkit.bench.kernels.clock import seconds_in_turns
from toolkit.geometry.neural.attention.block_sparse import TILE, block_sparse_attention, chosen_tiles
from toolkit.timing import spread_s

__all__ = ["OnDevice", "measured", "on_device"]

_SHAPES = ((1, 16, 16_384, 64), (1, 16, 16_384, 128))
_SHARE = 8
_GOAL = 2.0


@dataclass(frozen=True, kw_only=True)
class OnDevice:
    """Ours with R of T tiles beside flash attention.

    Args:
        kernel_s: The part of the block-sparse kernel, its tiles chosen before.
        ratio: Time of flash attention over ours, medians; `interval` is from the quartiles that are furthest apart.
        error: The largest difference of ours with all tiles from flash attention.
        means_error: The largest difference from the same tiles with the others' means in plain torch.
    """

    device: str
    shape: str
    causal: bool
    refine: int
    tiles: int
    seconds: float | None
    quartiles_s: tuple[float, float] | None = None
    kernel_s: float | None = None
    flash_s: float | None
    ratio: float | None
    interval: tuple[float, float] | None = None
    goal: float = _GOAL
    error: float | None = None
    means_error: float | None = None
    note: str = ""


def on_device(name: str) -> Iterator[OnDevice]:
    """One row a shape; on another device than a GPU the rows say that nothing was measured."""
    for shape in _SHAPES:
        for causal in (False, True):
            if name != "cuda":
                tiles = shape[2] // TILE
                yield OnDevice(device=name, shape=str(shape), causal=causal, refine=tiles // _SHARE, tiles=tiles,
                               seconds=None, flash_s=None, ratio=None, note="not measured: --device cuda")  # fmt: skip
            else:
                yield measured(shape, causal, torch.device(name))


def measured(shape: tuple[int, int, int, int], causal: bool, device: torch.device) -> OnDevice:
    """(b, H, N, d) of bfloat16, with N / 128 / 8 tiles."""
    tiles = shape[2] // TILE
    generator = torch.Generator(device).manual_seed(0)
    q, k, v = (torch.randn(shape, device=device, generator=generator).to(torch.bfloat16) for _ in range(3))
    refine = tiles // _SHARE
    chosen = chosen_tiles(q, k, refine, causal=causal)
    ours = partial(block_sparse_attention, q, k, v, refine, causal=causal)
    kernel = partial(attention, q, k, v, causal=causal, tiles=chosen)
    flash = partial(_flash, q, k, v, causal)
    taken = seconds_in_turns({"ours": ours, "kernel": kernel, "flash": flash}, device)
    error = (block_sparse_attention(q, k, v, tiles, causal=causal) - flash()).abs().max().item()
    seen = kernel()
    plain = reference.add_tile_means(seen.out, seen.lse, q, k, v, chosen, causal, shape[3] ** -0.5)
    low, seconds, high = spread_s(taken["ours"])
    flash_low, peer, flash_high = spread_s(taken["flash"])
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return OnDevice(device=name, shape=str(shape), causal=causal, refine=refine, tiles=tiles, seconds=seconds,
                    quartiles_s=(low, high), kernel_s=median(taken["kernel"]), flash_s=peer, ratio=peer / seconds,
                    interval=(flash_low / high, flash_high / low), error=error,
                    means_error=(ours() - plain).abs().max().item())  # fmt: skip


def _flash(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Any:
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return scaled_dot_product_attention(q, k, v, is_causal=causal)
