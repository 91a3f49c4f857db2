"""Sizes of attention, inputs and options of these sizes, and the reference behind the public signature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from kernels.attention import AttentionOut, AttentionStats, reference
from kernels.attention.tiles import tile_map


@dataclass(frozen=True)
class Sizes:
    b: int = 1
    h: int = 2
    shared: int = 2
    m: int = 150
    n: int = 150
    d: int = 16
    dv: int = 16


def inputs_of(sizes: Sizes, dtype: torch.dtype, device: torch.device) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(sizes.m * sizes.n)
    q = torch.randn(sizes.b, sizes.h, sizes.m, sizes.d, dtype=torch.float64, generator=rng)
    k = torch.randn(sizes.b, sizes.shared, sizes.n, sizes.d, dtype=torch.float64, generator=rng)
    v = torch.randn(sizes.b, sizes.shared, sizes.n, sizes.dv, dtype=torch.float64, generator=rng)
    return [x.to(device, dtype) for x in (q, k, v)]


def options_of(sizes: Sizes, options: dict[str, Any], device: torch.device) -> dict[str, Any]:
    found = {name: value for name, value in options.items() if name != "padded"}
    if options.get("padded"):
        padding = torch.zeros(sizes.b, sizes.n, dtype=torch.bool, device=device)
        padding[0, sizes.n // 2 :], padding[-1, : sizes.n // 3] = True, True
        found["key_padding"] = padding
    return found


def by_reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> AttentionOut:
    """The public function with the reference in it."""
    tiles = options.get("tiles")
    out, lse, stats = reference.attention(
        q, k, v, options.get("key_padding"),
        None if tiles is None else tile_map(tiles, q.shape[2], k.shape[2], q.device),
        options.get("causal", False), options.get("window"), options.get("scale", q.shape[3] ** -0.5), True,
    )  # fmt: skip
    return AttentionOut(out, lse, AttentionStats(*stats))
