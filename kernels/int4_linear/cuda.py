"""Int4 weights for few rows in CUDA C++: few_rows.cu, compiled by NVRTC when it first runs."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from kernels.dispatch import Call
from kernels.nvrtc import compiled, needs_compiler

__all__ = ["Cut", "linear_int4", "refusal"]

_SOURCE = Path(__file__).with_name("few_rows.cu")
_MOST_ROWS = 16
_TILE = 128
"""Consecutive k that one scale has to serve."""


class Cut(NamedTuple):
    """How the work is cut: tiles of 16 outputs a warp, warps of a block, which share out K, blocks a multiprocessor."""

    tiles: int
    warps: int
    blocks: int


def refusal(call: Call) -> str | None:
    """Why this form does not take a call; None where it does."""
    missing = needs_compiler(call)
    if missing:
        return missing
    if call.machine.capability < (9, 0):
        return f"it is known to be faster from compute capability 9.0 on, {call.machine} has less"
    if call.dtype not in (torch.bfloat16, torch.float16):
        return "it computes in bfloat16 or float16"
    if call.sizes["rows"] > _MOST_ROWS:
        return f"it is for at most {_MOST_ROWS} rows"
    if call.sizes["group"] % _TILE:
        return f"groups are of multiples of {_TILE}"
    return None


def linear_int4(
    x: Tensor, weight: Tensor, scale: Tensor, zero: Tensor | None, bias: Tensor | None, cut: Cut | None = None
) -> Tensor:
    (rows, n), outs = x.shape, weight.shape[0]
    out = x.new_empty(rows, outs)
    if not out.numel():
        return out
    cut = cut or _cut(rows, outs)
    values = {
        "FLOAT16": int(x.dtype == torch.float16), "TILES_M": -(-rows // 8), "TILES_N": cut.tiles, "WARPS": cut.warps,
        "BLOCKS": cut.blocks, "GROUP": n // scale.shape[1],
        "ZEROS": int(zero is not None), "BIAS": int(bias is not None),
    }  # fmt: skip
    launch = compiled(_SOURCE, "few_rows", tuple(f"-D{name}={value}" for name, value in values.items()), x.get_device())
    scale = scale.to(torch.float32).contiguous()
    launch(
        -(-outs // (16 * cut.tiles)), 32 * cut.warps,
        (_aligned(x), _aligned(weight), scale, scale if zero is None else zero.contiguous(),
         scale if bias is None else bias.contiguous(), out, rows, outs, n),
    )  # fmt: skip
    return out


def _aligned(t: Tensor) -> Tensor:
    """In rows one after the other, from a multiple of 16 bytes on."""
    t = t.contiguous()
    return t if t.data_ptr() % 16 == 0 else t.clone()


def _cut(rows: int, outs: int) -> Cut:
    """As measured on an H100: many small blocks where there are outputs for them; more a warp where x has more rows."""
    if outs >= 12_288:
        return Cut(2, 4, 4)
    return Cut(1, 16, 2) if rows <= 8 else Cut(2, 16, 1)
