"""Attention forward with statistics in CUDA C++ for Hopper: hopper.cu, compiled by NVRTC when it first runs."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from kernels.attention.tensor_maps import tensor_map
from kernels.dispatch import Call
from kernels.nvrtc import compiled, needs_compiler

__all__ = ["attention", "refusal", "unfit"]

_SOURCE = Path(__file__).with_name("hopper.cu")
_LENGTH, _ROWS, _THREADS = 128, 64, 256
"""Queries of a block and keys of a tile; queries of a warpgroup; threads of a block: as in hopper.cu."""
_PARTS = 8
"""Warps of a block that tell statistics, and numbers that each tells."""
_SHARED_BYTES = 5 * _LENGTH * 128 * 2 + 8 * 32 * 8 + 9 * 8 + 1024
"""Queries, two tiles of keys and two of values, monomials, barriers; and what aligns them."""
_WIDTHS = range(65, 129)
_LOG2_E = 1.4426950408889634


def refusal(call: Call) -> str | None:
    """Why this form does not take a call; None where it does."""
    return unfit(call) or (None if call.sizes["statistics"] else "without statistics Triton's form is faster")


def unfit(call: Call) -> str | None:
    """Why this form takes no call on such tensors, with statistics or without."""
    missing = needs_compiler(call)
    if missing:
        return missing
    if call.machine.capability[0] != 9:
        return f"its instructions are those of compute capability 9, {call.machine} has others"
    if call.dtype not in (torch.bfloat16, torch.float16):
        return "it computes in bfloat16 or float16"
    if call.sizes["masks"]:
        return "of masks it knows the causal one"
    widths = [call.sizes[name] for name in ("d", "dv")]
    if any(width not in _WIDTHS or width % 8 for width in widths):
        return f"its tiles are for widths from {_WIDTHS[0]} to {_WIDTHS[-1]}, multiples of 8, not {widths}"
    return None


def attention(
    q: Tensor, k: Tensor, v: Tensor, key_padding: None, tiles: None,
    causal: bool, window: None, scale: float, return_stats: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """What `kernels.attention.attention` describes: out, lse, statistics (5, B, H)."""
    batch, heads, m, _ = q.shape
    n, dv = k.shape[2], v.shape[3]
    out = q.new_empty(batch, heads, m, dv)
    lse = q.new_empty(batch, heads, m, dtype=torch.float32)
    stats = lse.new_empty(5, batch, heads)
    if out.numel() == 0 or n == 0:
        return out.zero_(), lse.fill_(-torch.inf), stats.zero_()
    blocks = -(-m // _LENGTH)
    partial = lse.new_empty(batch * heads * blocks, _PARTS, 8)
    maps = [tensor_map(x, rows) for x, rows in ((q, _LENGTH), (k, _LENGTH), (v, _LENGTH), (out, _ROWS))]
    options = (f"-DFLOAT16={int(q.dtype == torch.float16)}", f"-DCAUSAL={int(causal)}")
    device = q.get_device()
    compiled(_SOURCE, "forward", options, device, _SHARED_BYTES)(
        batch * heads * blocks, _THREADS,
        (*(described for described, _ in maps), lse, partial, scale * _LOG2_E, _lowest(scale), heads,
         heads // k.shape[1], m, n),
    )  # fmt: skip
    sums = (partial, stats, blocks * _PARTS, batch * heads)
    compiled(_SOURCE, "means", options, device)(batch * heads, 256, sums)
    return out, lse, stats


def _lowest(scale: float) -> float:
    """A logit below any, half of that of a masked key: which divided by the scale must still be a float32."""
    return -0.5 * min(1e30, 3e38 * scale)
