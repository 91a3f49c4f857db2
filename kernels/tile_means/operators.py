"""Which form of the operators on means of tiles runs for a call."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.attention.tiles import TILE
from kernels.dispatch import Call, Form, Operator, needs_triton
from kernels.eager import custom_op
from kernels.machine import machine_of

__all__ = ["BLOCK", "MEANS", "PRIORITY", "STAGES", "add_tile_means", "means_call", "tile_priority"]


BLOCK, STAGES = 64, 2
"""Means that a program in Triton takes at a time, and how many such blocks are on their way."""


def _not_in_triton(call: Call) -> str | None:
    if call.dtype == torch.float64:
        return "the matrix units know no float64"
    if call.dtype == torch.bfloat16 and call.machine.kind != "cuda":
        return "Triton's interpreter takes the bits of bfloat16 for integers"
    return needs_triton(call) or (_too_wide(call) if call.machine.kind == "cuda" else None)


def _too_wide(call: Call) -> str | None:
    d, dv = (1 << (call.sizes[name] - 1).bit_length() for name in ("d", "dv"))
    needed = (TILE * d + STAGES * BLOCK * (d + dv)) * call.dtype.itemsize
    if needed > call.machine.shared_bytes:
        return f"its tiles need {needed:,} bytes of shared memory, {call.machine} has {call.machine.shared_bytes:,}"
    return None


PRIORITY = Operator[Tensor](
    "tile_means",
    (
        Form("triton", "kernels.tile_means.fused:tile_priority", _not_in_triton),
        Form("torch", "kernels.tile_means.reference:tile_priority"),
    ),
)
MEANS = Operator[Tensor](
    "tile_means",
    (
        Form("triton", "kernels.tile_means.fused:add_tile_means", _not_in_triton),
        Form("torch", "kernels.tile_means.reference:add_tile_means"),
    ),
)


def means_call(
    q: Tensor, k: Tensor, v: Tensor | None = None, *, causal: bool = False, scale: float | None = None
) -> Call:
    """A call by the arguments of `tile_priority`, and with `v` of `add_tile_means`."""
    batch, heads, n, d = q.shape
    sizes = {"B": batch, "H": heads, "T": n // TILE, "d": d, "dv": d if v is None else v.shape[3]}
    return Call(machine_of(q.device), q.dtype, sizes | {"causal": int(causal)})


@custom_op("kernels::tile_priority", mutates_args=())
def tile_priority(q: Tensor, k: Tensor, causal: bool, scale: float) -> Tensor:
    return PRIORITY.run(means_call(q, k, causal=causal), q, k, causal, scale)


@tile_priority.register_fake
def _(q: Tensor, k: Tensor, causal: bool, scale: float) -> Tensor:
    tiles = q.shape[2] // TILE
    return q.new_empty(tiles, tiles, dtype=torch.promote_types(q.dtype, torch.float32))


@custom_op("kernels::add_tile_means", mutates_args=())
def add_tile_means(
    out: Tensor, lse: Tensor, q: Tensor, k: Tensor, v: Tensor, seen: Tensor, causal: bool, scale: float
) -> Tensor:
    return MEANS.run(means_call(q, k, v, causal=causal), out, lse, q, k, v, seen, causal, scale)


@add_tile_means.register_fake
def _(out: Tensor, lse: Tensor, q: Tensor, k: Tensor, v: Tensor, seen: Tensor, causal: bool, scale: float) -> Tensor:
    return out.new_empty(out.shape)
