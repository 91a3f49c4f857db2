"""Attention forward in Triton: one pass over the keys, statistics and all.

B batch, H heads, M queries, N keys, D width; a program owns BLOCK_M queries of one head. Query i stands at position
i + N - M; x is a key's position less that of the program's first query. Logits are in base 2 throughout.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from kernels.attention.launching import LOG2_E, TILE, descriptor, listed, precision, width
from kernels.attention.shapes import forward_shape

__all__ = ["attention", "keep_mask"]

MOMENTS = tl.constexpr(8)  # columns that ride the matrix unit: so few that it takes them without a queue
LANES = tl.constexpr(8)  # columns of a score tile that lie in other threads of a row: sums over the rest stay in one
SLACK = tl.constexpr(8.0)


@triton.jit
def _in_thread(x, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """Sums over a tile's columns as far as one thread holds them: (BLOCK_M, BLOCK_N) to (BLOCK_M, LANES)."""
    return tl.sum(tl.reshape(x, [BLOCK_M, BLOCK_N // LANES, LANES]), axis=1)


@triton.jit
def keep_mask(key, pos, padding, N, window, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, PADDED: tl.constexpr):
    """Which keys which queries attend to, both given by position and along an axis of their own."""
    keep = (key < N) & (pos >= pos)  # of both axes' shape
    if CAUSAL:
        keep = keep & (key <= pos)
    if WINDOWED:
        keep = keep & (tl.abs(key - pos) <= window)
    if PADDED:
        keep = keep & (tl.load(padding + key, key < N, other=1) == 0)
    return keep


@triton.jit
def _monomials(BLOCK_N: tl.constexpr, dtype: tl.constexpr):
    """(BLOCK_N, MOMENTS): for key b of a tile 1, b, b² in two parts that bfloat16 holds, then 1, b, 1 again."""
    b, col = tl.arange(0, BLOCK_N)[:, None], tl.arange(0, MOMENTS)[None, :]
    ones = (col == 0) | (col == 4) | (col == 6)
    found = tl.where(ones, 1, 0) + tl.where((col == 1) | (col == 5), b, 0)
    found += tl.where(col == 2, (b * b) // 128, 0) + tl.where(col == 3, (b * b) % 128, 0)
    return found.to(dtype)


@triton.jit
def _step(
    q, k_desc, v_desc, b, hk, start, first, pos, padding, N, window, scale,
    m, top, mass, heat, square, acc, moments, span, monomials,
    D: tl.constexpr, DV: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, PADDED: tl.constexpr, MASKED: tl.constexpr, ABSOLUTE: tl.constexpr,
    STATS: tl.constexpr,
):  # fmt: skip
    """One tile of keys: every sum under the row's distribution, in weights exp2(s - m).

    `top` is the row's maximum so far. m follows it, and the sums are scaled, only once some row of the program is SLACK
    ahead: weights may grow to 2**SLACK, and nearly every tile is spared the scaling.
    """
    k = k_desc.load([b, hk, start, 0]).reshape(BLOCK_N, D)
    s = tl.dot(q, k.T, input_precision=PRECISION)  # [BLOCK_M, BLOCK_N]
    key = start + tl.arange(0, BLOCK_N)
    if MASKED:
        keep = keep_mask(key[None, :], pos[:, None], padding, N, window, CAUSAL, WINDOWED, PADDED)
        s = tl.where(keep, s, -float("inf"))
    top = tl.maximum(top, tl.max(s, 1) * scale)
    if tl.max(top - m, 0) > SLACK:
        shrink = tl.exp2(m - top)[:, None]
        if STATS:
            heat = shrink * (heat + (m - top)[:, None] * mass)
            square = shrink * shrink * square
            moments = moments * shrink
            span = span * shrink
        mass = mass * shrink
        acc = acc * shrink
        m = top
    t = s * scale - m[:, None]
    p = tl.exp2(t)
    if STATS:
        if MASKED:
            t = tl.where(keep, t, 0.0)
        heat += _in_thread(p * t, BLOCK_M, BLOCK_N)
        square += _in_thread(p * p, BLOCK_M, BLOCK_N)
    mass += _in_thread(p, BLOCK_M, BLOCK_N)
    narrow = p.to(q.dtype)
    if STATS:  # before the product with v, which nobody waits for until the next tile
        base = (start - first).to(tl.float32)
        col = tl.arange(0, MOMENTS)
        shift = tl.where(col < 4, 1.0, tl.where(col < 6, base, base * base))
        moments += tl.dot(narrow, monomials, input_precision=PRECISION) * shift[None, :]
        if ABSOLUTE:
            far = tl.abs(key[None, :] - pos[:, None]).to(tl.float32)
            span += _in_thread(narrow.to(tl.float32) * far, BLOCK_M, BLOCK_N)
    v = v_desc.load([b, hk, start, 0]).reshape(BLOCK_N, DV)
    acc = tl.dot(narrow, v, acc, input_precision=PRECISION)
    return m, top, mass, heat, square, acc, moments, span


@triton.jit
def _leaning(moments, ahead):
    """Of the keys so far, sum of p (x - ahead): how far they lie after the query, before it counting negative."""
    col = tl.arange(0, MOMENTS)[None, :]
    place = tl.sum(tl.where((col == 1) | (col == 4), moments, 0.0), 1)
    return place - ahead * tl.sum(tl.where(col == 0, moments, 0.0), 1)


@triton.jit
def _forward(
    q_desc, k_desc, v_desc, out_desc, Lse, Partial, Padding, Counts, Columns, scale, H, GROUP, M, N, window,
    tile_columns,
    D: tl.constexpr, DV: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, TILE: tl.constexpr,
    PRECISION: tl.constexpr, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, PADDED: tl.constexpr, LISTED: tl.constexpr,
    STATS: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(M, BLOCK_M)
    pid = tl.program_id(0)
    block, head = pid % blocks, pid // blocks
    if CAUSAL:
        block = blocks - 1 - block  # the longest first
    b, h = head // H, head % H
    hk = h // GROUP
    row = block * BLOCK_M + tl.arange(0, BLOCK_M)
    pos = row + (N - M)
    first = block * BLOCK_M + (N - M)
    padding = Padding + b.to(tl.int64) * N if PADDED else Padding

    q = q_desc.load([b, h, block * BLOCK_M, 0]).reshape(BLOCK_M, D)
    m = tl.full([BLOCK_M], -1e30, tl.float32)
    top = tl.full([BLOCK_M], -1e30, tl.float32)
    mass = tl.zeros([BLOCK_M, LANES], tl.float32)
    heat = tl.zeros([BLOCK_M, LANES], tl.float32)
    square = tl.zeros([BLOCK_M, LANES], tl.float32)
    span = tl.zeros([BLOCK_M, LANES], tl.float32)
    acc = tl.zeros([BLOCK_M, DV], tl.float32)
    moments = tl.zeros([BLOCK_M, MOMENTS], tl.float32)
    monomials = _monomials(BLOCK_N, q.dtype)

    low, high = 0, N
    if WINDOWED:
        low = tl.maximum(first - window, 0) // BLOCK_N * BLOCK_N
        high = tl.minimum(tl.maximum(first + BLOCK_M + window, 0), N)
    if CAUSAL:
        high = tl.minimum(high, tl.maximum(first + BLOCK_M, 0))

    if LISTED:
        each = TILE // BLOCK_N
        tile_row = block * BLOCK_M // TILE
        for index in range(0, tl.load(Counts + tile_row) * each):
            tile = tl.load(Columns + tile_row * tile_columns + index // each)
            m, top, mass, heat, square, acc, moments, span = _step(
                q, k_desc, v_desc, b, hk, tile * TILE + index % each * BLOCK_N, first, pos, padding, N, window, scale,
                m, top, mass, heat, square, acc, moments, span, monomials,
                D, DV, BLOCK_M, BLOCK_N, PRECISION, CAUSAL, WINDOWED, PADDED, True, True, STATS,
            )  # fmt: skip
    elif WINDOWED:
        for start in tl.range(low, high, BLOCK_N, num_stages=STAGES):
            m, top, mass, heat, square, acc, moments, span = _step(
                q, k_desc, v_desc, b, hk, start, first, pos, padding, N, window, scale,
                m, top, mass, heat, square, acc, moments, span, monomials,
                D, DV, BLOCK_M, BLOCK_N, PRECISION, CAUSAL, WINDOWED, PADDED, True, True, STATS,
            )  # fmt: skip
    else:
        whole = N // BLOCK_N * BLOCK_N
        before = whole
        if CAUSAL or STATS:  # tiles with no key after the first query
            before = tl.minimum(tl.maximum(first + 1, 0) // BLOCK_N * BLOCK_N, whole)
        for start in tl.range(0, before, BLOCK_N, num_stages=STAGES):
            m, top, mass, heat, square, acc, moments, span = _step(
                q, k_desc, v_desc, b, hk, start, first, pos, padding, N, window, scale,
                m, top, mass, heat, square, acc, moments, span, monomials,
                D, DV, BLOCK_M, BLOCK_N, PRECISION, False, False, PADDED, PADDED, False, STATS,
            )  # fmt: skip
        ahead = (row - block * BLOCK_M).to(tl.float32)
        lane = tl.arange(0, LANES)[None, :]
        if STATS:
            span -= tl.where(lane == 0, _leaning(moments, ahead)[:, None], 0.0)
        after = before
        if CAUSAL or STATS:  # tiles with keys on both sides, until all lie after the last query
            after = tl.cdiv(tl.maximum(first + BLOCK_M - 1, 0), BLOCK_N) * BLOCK_N
            after = tl.maximum(tl.minimum(after, whole), before)
            if CAUSAL:
                after = high
            for start in tl.range(before, after, BLOCK_N, num_stages=1):
                m, top, mass, heat, square, acc, moments, span = _step(
                    q, k_desc, v_desc, b, hk, start, first, pos, padding, N, window, scale,
                    m, top, mass, heat, square, acc, moments, span, monomials,
                    D, DV, BLOCK_M, BLOCK_N, PRECISION, CAUSAL, False, PADDED, CAUSAL or PADDED, True, STATS,
                )  # fmt: skip
        if STATS and not CAUSAL:
            span -= tl.where(lane == 0, _leaning(moments, ahead)[:, None], 0.0)
            for start in tl.range(after, whole, BLOCK_N, num_stages=STAGES):
                m, top, mass, heat, square, acc, moments, span = _step(
                    q, k_desc, v_desc, b, hk, start, first, pos, padding, N, window, scale,
                    m, top, mass, heat, square, acc, moments, span, monomials,
                    D, DV, BLOCK_M, BLOCK_N, PRECISION, False, False, PADDED, PADDED, False, STATS,
                )  # fmt: skip
            span += tl.where(lane == 0, _leaning(moments, ahead)[:, None], 0.0)
        if not CAUSAL:
            for start in tl.range(whole, N, BLOCK_N, num_stages=1):  # what is left of the keys
                m, top, mass, heat, square, acc, moments, span = _step(
                    q, k_desc, v_desc, b, hk, start, first, pos, padding, N, window, scale,
                    m, top, mass, heat, square, acc, moments, span, monomials,
                    D, DV, BLOCK_M, BLOCK_N, PRECISION, False, False, PADDED, True, True, STATS,
                )  # fmt: skip

    total = tl.sum(mass, 1)
    empty = total == 0
    safe = tl.where(empty, 1.0, total)
    out = acc / safe[:, None]
    out_desc.store([b, h, block * BLOCK_M, 0], out.to(q.dtype).reshape(1, 1, BLOCK_M, DV))
    lse = tl.where(empty, -float("inf"), (m + tl.log2(safe)) * 0.6931471805599453)
    tl.store(Lse + head.to(tl.int64) * M + row, lse, row < M)
    if STATS:
        counted = (row < M) & (total != 0)
        col = tl.arange(0, MOMENTS)[None, :]
        weight = tl.sum(tl.where(col == 0, moments, 0.0), 1)
        weight = tl.where(empty, 1.0, weight)
        place = tl.sum(tl.where((col == 1) | (col == 4), moments, 0.0), 1) / weight
        factor = tl.where(col == 2, 128.0, tl.where(col == 5, 2.0, tl.where((col == 3) | (col == 6), 1.0, 0.0)))
        variance = tl.sum(moments * factor, 1) / weight - place * place
        entropy = (tl.log2(safe) - tl.sum(heat, 1) / safe) * 0.6931471805599453
        partial = Partial + pid.to(tl.int64) * 8
        tl.store(partial, tl.sum(tl.where(counted, tl.sum(span, 1) / weight, 0.0)))
        tl.store(partial + 1, tl.sum(tl.where(counted, entropy, 0.0)))
        tl.store(partial + 2, tl.sum(tl.where(counted, tl.maximum(variance, 0.0), 0.0)))
        tl.store(partial + 3, tl.sum(tl.where(counted, tl.exp2(top - m) / safe, 0.0)))
        tl.store(partial + 4, tl.sum(tl.where(counted, safe * safe / tl.sum(square, 1), 0.0)))
        tl.store(partial + 5, tl.sum(tl.where(counted, 1.0, 0.0)))


@triton.jit
def _mean(Partial, Stats, blocks, heads, BLOCK: tl.constexpr):
    """Means over a head's rows, always summed in the same order; 0 where no row attends to anything."""
    head = tl.program_id(0).to(tl.int64)
    total = tl.zeros([BLOCK, 8], tl.float32)
    for start in range(0, blocks, BLOCK):
        at = start + tl.arange(0, BLOCK)
        total += tl.load(
            Partial + (head * blocks + at[:, None]) * 8 + tl.arange(0, 8)[None, :], at[:, None] < blocks, 0
        )
    sums = tl.sum(total, 0)
    column = tl.arange(0, 8)
    rows = tl.sum(tl.where(column == 5, sums, 0.0))
    tl.store(Stats + column * heads + head, tl.where(rows == 0, 0.0, sums / tl.maximum(rows, 1.0)), column < 5)


def attention(
    q: Tensor, k: Tensor, v: Tensor, key_padding: Tensor | None, tiles: Tensor | None,
    causal: bool, window: int | None, scale: float, return_stats: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """What `kernels.attention.attention` describes: out, lse, statistics (5, B, H)."""
    batch, heads, m, d = q.shape
    n, dv = k.shape[2], v.shape[3]
    out = q.new_empty(batch, heads, m, dv)
    lse = q.new_empty(batch, heads, m, dtype=torch.float32)
    stats = q.new_zeros(5 if return_stats else 0, batch, heads, dtype=torch.float32)
    if out.numel() == 0 or n == 0:
        return out.zero_(), lse.fill_(-torch.inf), stats
    shape = forward_shape(d, dv, q.dtype)
    blocks = triton.cdiv(m, shape.block_m)
    partial = lse.new_empty((batch * heads * blocks, 8) if return_stats else (1, 8))
    counts, columns = listed(tiles, lse)
    wide = width(max(d, dv))  # one for both: with narrower values Triton 3.6 gives wrong sums on a Hopper GPU
    _forward[(batch * heads * blocks,)](
        descriptor(q, shape.block_m, wide), descriptor(k, shape.block_n, wide), descriptor(v, shape.block_n, wide),
        descriptor(out, shape.block_m, wide),
        lse, partial, lse if key_padding is None else key_padding.view(torch.int8), counts, columns,
        scale * LOG2_E, heads, heads // k.shape[1], m, n, window or 0, columns.shape[-1],
        D=wide, DV=wide, TILE=TILE, PRECISION=precision(q.dtype),
        CAUSAL=causal, WINDOWED=window is not None, PADDED=key_padding is not None, LISTED=tiles is not None,
        STATS=return_stats, **shape.options(),
    )  # fmt: skip
    if return_stats:
        _mean[(batch * heads,)](partial, stats, blocks, batch * heads, BLOCK=32)
    return out, lse, stats
