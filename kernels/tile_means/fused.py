"""Tiles of keys as their means in Triton: logits of queries at centres stay in the registers of a program.

A program owns a tile of queries of one head and goes over the centres, some of them at a time. Means and radii of tiles
come from a pass of their own, which reads every key once.
"""

from __future__ import annotations

from math import log

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.attention.launching import precision, width
from kernels.attention.tiles import TILE
from kernels.tile_means.operators import BLOCK, STAGES

__all__ = ["add_tile_means", "tile_priority"]

_WARPS = 8


@triton.jit
def _tile(X, head, H, tile, d, batch_stride, head_stride, row_stride, TILE: tl.constexpr, D: tl.constexpr):
    """(TILE, D) of one head, zeros behind column d."""
    row, col = tile * TILE + tl.arange(0, TILE), tl.arange(0, D)
    base = X + head // H * batch_stride + head % H * head_stride
    return tl.load(base + row[:, None] * row_stride + col[None, :], (col < d)[None, :], other=0.0)


@triton.jit
def _points(
    X, Means, Radii, H, T, d, batch_stride, head_stride, row_stride, TILE: tl.constexpr, D: tl.constexpr,
    RADII: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0).to(tl.int64)
    x = _tile(X, pid // T, H, pid % T, d, batch_stride, head_stride, row_stride, TILE, D).to(tl.float32)
    col = tl.arange(0, D)
    mean = (tl.sum(x, 0) / TILE).to(Means.dtype.element_ty)
    tl.store(Means + pid * d + col, mean, col < d)
    if RADII:
        apart = x - mean.to(tl.float32)[None, :]
        tl.store(Radii + pid, tl.sqrt(tl.max(tl.sum(apart * apart, 1), 0)))


@triton.jit
def _logits(
    q, Centres, head, start, T, d, scale, tile, CAUSAL: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """(TILE, BLOCK) of centres from `start` on; minus infinity behind the last and, where causal, behind the own."""
    b, col = start + tl.arange(0, BLOCK), tl.arange(0, D)
    at = Centres + (head * T + b)[None, :] * d + col[:, None]
    centres = tl.load(at, (b < T)[None, :] & (col < d)[:, None], other=0.0)
    s = tl.dot(q, centres, input_precision=PRECISION) * scale
    shown = b < T
    if CAUSAL:
        shown = shown & (b <= tile)
    return tl.where(shown[None, :], s, -float("inf"))


@triton.jit
def _priority(
    Q, Centres, Radii, Out, scale, H, T, d, batch_stride, head_stride, row_stride,
    CAUSAL: tl.constexpr, TILE: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0).to(tl.int64)
    head, tile = pid // T, pid % T
    q = _tile(Q, head, H, tile, d, batch_stride, head_stride, row_stride, TILE, D)
    norm = tl.sqrt(tl.sum(q.to(tl.float32) * q.to(tl.float32), 1)) * scale
    top, total = tl.full([TILE], -1e30, tl.float32), tl.zeros([TILE], tl.float32)
    for start in range(0, T, BLOCK):
        s = _logits(q, Centres, head, start, T, d, scale, tile, CAUSAL, D, BLOCK, PRECISION)
        above = tl.maximum(top, tl.max(s, 1))
        total = total * tl.exp(top - above) + tl.sum(tl.exp(s - above[:, None]), 1)
        top = above
    lse = top + tl.log(total)
    for start in range(0, T, BLOCK):
        b = start + tl.arange(0, BLOCK)
        s = _logits(q, Centres, head, start, T, d, scale, tile, CAUSAL, D, BLOCK, PRECISION)
        z = norm[:, None] * tl.load(Radii + head * T + b, b < T, other=0.0)[None, :]
        share = s - lse[:, None] + tl.minimum(z, 0.5 * z * z)
        most = tl.maximum(tl.max(share, 0), -1e30)
        each = most + tl.log(tl.sum(tl.exp(share - most[None, :]), 0))
        tl.store(Out + pid * T + b, each, b < T)


@triton.jit
def _mix(
    Q, Centres, Means, Seen, Lse, Exact, Out, scale, log_count, H, T, d, dv, batch_stride, head_stride, row_stride,
    CAUSAL: tl.constexpr, TILE: tl.constexpr, D: tl.constexpr, DV: tl.constexpr, BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    pid = tl.program_id(0).to(tl.int64)
    head, tile = pid // T, pid % T
    q = _tile(Q, head, H, tile, d, batch_stride, head_stride, row_stride, TILE, D)
    col = tl.arange(0, DV)
    top, total = tl.full([TILE], -1e30, tl.float32), tl.zeros([TILE], tl.float32)
    acc = tl.zeros([TILE, DV], tl.float32)
    for start in range(0, T, BLOCK):
        b = start + tl.arange(0, BLOCK)
        s = _logits(q, Centres, head, start, T, d, scale, tile, CAUSAL, D, BLOCK, PRECISION)
        seen = tl.load(Seen + tile * T + b, b < T, other=1)
        s = tl.where((seen == 0)[None, :], s, -float("inf"))
        above = tl.maximum(top, tl.max(s, 1))
        shrink = tl.exp(top - above)
        p = tl.exp(s - above[:, None])
        total = total * shrink + tl.sum(p, 1)
        at = Means + (head * T + b)[:, None] * dv + col[None, :]
        means = tl.load(at, (b < T)[:, None] & (col < dv)[None, :], other=0.0)
        acc = tl.dot(p.to(q.dtype), means, acc * shrink[:, None], input_precision=PRECISION)
        top = above
    empty = total == 0
    safe = tl.where(empty, 1.0, total)
    row = pid * TILE + tl.arange(0, TILE)
    apart = tl.load(Lse + row) - (top + tl.log(safe) + log_count)
    share = tl.where(empty, 0.0, 1.0 / (1.0 + tl.exp(apart)))
    at = row[:, None] * dv + col[None, :]
    exact = tl.load(Exact + at, (col < dv)[None, :], other=0.0).to(tl.float32)
    mixed = exact + share[:, None] * (acc / safe[:, None] - exact)
    tl.store(Out + at, mixed.to(Out.dtype.element_ty), (col < dv)[None, :])


def tile_priority(q: Tensor, k: Tensor, causal: bool, scale: float) -> Tensor:
    """What `kernels.tile_means.tile_priority` describes: (T, T)."""
    (batch, heads, _, d), tiles = q.shape, q.shape[2] // TILE
    centres, radii = _summed(k, with_radii=True)
    q = _rows(q)
    found = q.new_empty(batch, heads, tiles, tiles, dtype=torch.float32)
    _priority[(batch * heads * tiles,)](
        q, centres, radii, found, scale, heads, tiles, d, *q.stride()[:3],
        CAUSAL=causal, TILE=TILE, D=width(d), BLOCK=_block(tiles), PRECISION=precision(q.dtype),
        num_warps=_WARPS, num_stages=STAGES,
    )  # fmt: skip
    return found.logsumexp((0, 1))


def add_tile_means(
    out: Tensor, lse: Tensor, q: Tensor, k: Tensor, v: Tensor, seen: Tensor, causal: bool, scale: float
) -> Tensor:
    """What `kernels.tile_means.add_tile_means` describes: (B, H, N, dv)."""
    (batch, heads, _, d), tiles, dv = q.shape, q.shape[2] // TILE, v.shape[3]
    (centres, _), (means, _) = _summed(k, with_radii=False), _summed(v, with_radii=False)
    q = _rows(q)
    mixed = torch.empty_like(out, memory_format=torch.contiguous_format)
    _mix[(batch * heads * tiles,)](
        q, centres, means, seen.contiguous().view(torch.int8), lse.contiguous(), out.contiguous(), mixed,
        scale, log(TILE), heads, tiles, d, dv, *q.stride()[:3],
        CAUSAL=causal, TILE=TILE, D=width(d), DV=width(dv), BLOCK=_block(tiles), PRECISION=precision(q.dtype),
        num_warps=_WARPS, num_stages=STAGES,
    )  # fmt: skip
    return mixed


def _summed(x: Tensor, with_radii: bool) -> tuple[Tensor, Tensor]:
    """Means of tiles (B, H, T, d), and how far the furthest of a tile is from its own, (B, H, T) or nothing."""
    x = _rows(x)
    (batch, heads, _, d), tiles = x.shape, x.shape[2] // TILE
    means = x.new_empty(batch, heads, tiles, d)
    radii = x.new_empty((batch, heads, tiles) if with_radii else (1,), dtype=torch.float32)
    _points[(batch * heads * tiles,)](
        x, means, radii, heads, tiles, d, *x.stride()[:3], TILE=TILE, D=width(d), RADII=with_radii
    )  # fmt: skip
    return means, radii


def _rows(x: Tensor) -> Tensor:
    """Rows whose elements lie side by side."""
    return x if x.stride(3) == 1 else x.contiguous()


def _block(tiles: int) -> int:
    """Centres at a time: as many as there are, from what the matrix units take up to BLOCK."""
    return min(width(tiles), BLOCK)
