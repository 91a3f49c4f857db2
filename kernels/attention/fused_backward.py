"""Attention backward in Triton: probabilities are computed again from lse, twice, so that no sum needs atomics.

One kernel keeps a tile of keys and lets queries pass, and sums the gradients of keys and values; the other keeps a
tile of queries and lets keys pass. Both work in base 2, as the forward pass does.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from kernels.attention.fused import keep_mask
from kernels.attention.launching import LOG2_E, TILE, descriptor, listed, precision, width
from kernels.attention.shapes import gradient_shapes

__all__ = ["attention_backward"]

_ROWS = 64
"""Queries that a program prepares; what it writes is as long as a multiple of this."""


@triton.jit
def _prepare(
    out_desc, dout_desc, Lse, DLse, Delta, Lse2, H, M, BLOCK_M: tl.constexpr, DV: tl.constexpr
):  # fmt: skip
    """delta = sum of out * dout, less the gradient of lse; and lse in base 2, infinite where a row is empty or none."""
    blocks = tl.cdiv(M, BLOCK_M)
    block, head = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    start = block * BLOCK_M
    out = out_desc.load([head // H, head % H, start, 0]).reshape(BLOCK_M, DV).to(tl.float32)
    dout = dout_desc.load([head // H, head % H, start, 0]).reshape(BLOCK_M, DV).to(tl.float32)
    row = start + tl.arange(0, BLOCK_M)
    at = head.to(tl.int64) * M + row
    lse = tl.load(Lse + at, row < M, other=0.0)
    delta = tl.sum(out * dout, 1) - tl.load(DLse + at, row < M, other=0.0)
    lse2 = tl.where((row >= M) | (lse == -float("inf")), float("inf"), lse * 1.4426950408889634)
    padded = head.to(tl.int64) * blocks * BLOCK_M + row
    tl.store(Delta + padded, delta)
    tl.store(Lse2 + padded, lse2)


@triton.jit
def _keys_step(
    k, v, q_desc, dout_desc, lse_desc, delta_desc, b, h, H, start, n0, padding, M, N, window, scale, dk, dv,
    D: tl.constexpr, DV: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, PADDED: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """BLOCK_M queries pass a tile of keys; scores lie transposed, keys down, queries across."""
    q = q_desc.load([b, h, start, 0]).reshape(BLOCK_M, D)
    row = start + tl.arange(0, BLOCK_M)
    lse = lse_desc.load([b * H + h, start]).reshape(BLOCK_M)
    s = tl.dot(k, q.T, input_precision=PRECISION)  # [BLOCK_N, BLOCK_M]
    p = tl.exp2(s * scale - lse[None, :])
    if MASKED:
        key = n0 + tl.arange(0, BLOCK_N)
        keep = keep_mask(key[:, None], (row + (N - M))[None, :], padding, N, window, CAUSAL, WINDOWED, PADDED)
        p = tl.where(keep, p, 0.0)
    dout = dout_desc.load([b, h, start, 0]).reshape(BLOCK_M, DV)
    dv = tl.dot(p.to(q.dtype), dout, dv, input_precision=PRECISION)
    delta = delta_desc.load([b * H + h, start]).reshape(BLOCK_M)
    dp = tl.dot(v, dout.T, input_precision=PRECISION)
    ds = p * (dp - delta[None, :])
    dk = tl.dot(ds.to(q.dtype), q, dk, input_precision=PRECISION)
    return dk, dv


@triton.jit
def _keys(
    q_desc, k_desc, v_desc, dout_desc, dk_desc, dv_desc, lse_desc, delta_desc, Padding, Counts, Rows,
    scale, factor, H, GROUP, M, N, window, tile_rows,
    D: tl.constexpr, DV: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, TILE: tl.constexpr,
    PRECISION: tl.constexpr, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, PADDED: tl.constexpr, LISTED: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """Gradients of a tile of keys and their values, summed over the queries of all heads that share them."""
    blocks = tl.cdiv(N, BLOCK_N)
    block, head = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    shared = H // GROUP
    b, hk = head // shared, head % shared
    n0 = block * BLOCK_N
    k = k_desc.load([b, hk, n0, 0]).reshape(BLOCK_N, D)
    v = v_desc.load([b, hk, n0, 0]).reshape(BLOCK_N, DV)
    dk = tl.zeros([BLOCK_N, D], tl.float32)
    dv = tl.zeros([BLOCK_N, DV], tl.float32)
    padding = Padding + b.to(tl.int64) * N if PADDED else Padding
    offset = N - M
    low, high = 0, M
    if CAUSAL:
        low = tl.maximum(n0 - offset, 0) // BLOCK_M * BLOCK_M
    if WINDOWED:
        if not CAUSAL:
            low = tl.maximum(n0 - window - offset, 0) // BLOCK_M * BLOCK_M
        high = tl.minimum(tl.maximum(n0 + BLOCK_N + window - offset, 0), M)
    for member in range(0, GROUP):
        h = hk * GROUP + member
        if LISTED:
            each = TILE // BLOCK_M
            column = n0 // TILE
            for index in range(0, tl.load(Counts + column) * each):
                tile = tl.load(Rows + column * tile_rows + index // each)
                dk, dv = _keys_step(
                    k, v, q_desc, dout_desc, lse_desc, delta_desc, b, h, H, tile * TILE + index % each * BLOCK_M, n0,
                    padding, M, N, window, scale, dk, dv,
                    D, DV, BLOCK_M, BLOCK_N, PRECISION, CAUSAL, WINDOWED, PADDED, True,
                )  # fmt: skip
        elif WINDOWED:
            for start in tl.range(low, high, BLOCK_M, num_stages=STAGES):
                dk, dv = _keys_step(
                    k, v, q_desc, dout_desc, lse_desc, delta_desc, b, h, H, start, n0, padding,
                    M, N, window, scale, dk, dv,
                    D, DV, BLOCK_M, BLOCK_N, PRECISION, CAUSAL, WINDOWED, PADDED, True,
                )  # fmt: skip
        else:
            every = low
            if CAUSAL:  # queries from here on attend to the whole tile
                every = tl.cdiv(tl.maximum(n0 + BLOCK_N - 1 - offset, 0), BLOCK_M) * BLOCK_M
                every = tl.minimum(every, tl.cdiv(M, BLOCK_M) * BLOCK_M)
                for start in tl.range(low, every, BLOCK_M, num_stages=1):
                    dk, dv = _keys_step(
                        k, v, q_desc, dout_desc, lse_desc, delta_desc, b, h, H, start, n0, padding,
                        M, N, window, scale, dk, dv,
                        D, DV, BLOCK_M, BLOCK_N, PRECISION, CAUSAL, False, PADDED, True,
                    )  # fmt: skip
            for start in tl.range(every, M, BLOCK_M, num_stages=STAGES):
                dk, dv = _keys_step(
                    k, v, q_desc, dout_desc, lse_desc, delta_desc, b, h, H, start, n0, padding,
                    M, N, window, scale, dk, dv,
                    D, DV, BLOCK_M, BLOCK_N, PRECISION, False, False, PADDED, PADDED,
                )  # fmt: skip
    dk_desc.store([b, hk, n0, 0], (dk * factor).to(k.dtype).reshape(1, 1, BLOCK_N, D))
    dv_desc.store([b, hk, n0, 0], dv.to(k.dtype).reshape(1, 1, BLOCK_N, DV))


@triton.jit
def _queries_step(
    q, dout, lse, delta, k_desc, v_desc, b, hk, start, pos, padding, N, window, scale, dq,
    D: tl.constexpr, DV: tl.constexpr, BLOCK_N: tl.constexpr, PRECISION: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, PADDED: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    k = k_desc.load([b, hk, start, 0]).reshape(BLOCK_N, D)
    v = v_desc.load([b, hk, start, 0]).reshape(BLOCK_N, DV)
    s = tl.dot(q, k.T, input_precision=PRECISION)
    dp = tl.dot(dout, v.T, input_precision=PRECISION)
    p = tl.exp2(s * scale - lse[:, None])
    if MASKED:
        key = start + tl.arange(0, BLOCK_N)
        p = tl.where(keep_mask(key[None, :], pos[:, None], padding, N, window, CAUSAL, WINDOWED, PADDED), p, 0.0)
    ds = p * (dp - delta[:, None])
    return tl.dot(ds.to(q.dtype), k, dq, input_precision=PRECISION)


@triton.jit
def _queries(
    q_desc, k_desc, v_desc, dout_desc, dq_desc, Lse2, Delta, Padding, Counts, Columns,
    scale, factor, H, GROUP, M, N, padded_m, window, tile_columns,
    D: tl.constexpr, DV: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, TILE: tl.constexpr,
    PRECISION: tl.constexpr, CAUSAL: tl.constexpr, WINDOWED: tl.constexpr, PADDED: tl.constexpr, LISTED: tl.constexpr,
    STAGES: tl.constexpr,
):  # fmt: skip
    """Gradients of a tile of queries."""
    blocks = tl.cdiv(M, BLOCK_M)
    block, head = tl.program_id(0) % blocks, tl.program_id(0) // blocks
    if CAUSAL:
        block = blocks - 1 - block  # the longest first
    b, h = head // H, head % H
    hk = h // GROUP
    m0 = block * BLOCK_M
    row = m0 + tl.arange(0, BLOCK_M)
    pos, first = row + (N - M), m0 + (N - M)
    q = q_desc.load([b, h, m0, 0]).reshape(BLOCK_M, D)
    dout = dout_desc.load([b, h, m0, 0]).reshape(BLOCK_M, DV)
    at = head.to(tl.int64) * padded_m + row
    lse = tl.load(Lse2 + at, row < padded_m, other=0.0)
    delta = tl.load(Delta + at, row < padded_m, other=0.0)
    dq = tl.zeros([BLOCK_M, D], tl.float32)
    padding = Padding + b.to(tl.int64) * N if PADDED else Padding
    low, high = 0, N
    if WINDOWED:
        low = tl.maximum(first - window, 0) // BLOCK_N * BLOCK_N
        high = tl.minimum(tl.maximum(first + BLOCK_M + window, 0), N)
    if CAUSAL:
        high = tl.minimum(high, tl.maximum(first + BLOCK_M, 0))
    if LISTED:
        each = TILE // BLOCK_N
        tile_row = m0 // TILE
        for index in range(0, tl.load(Counts + tile_row) * each):
            tile = tl.load(Columns + tile_row * tile_columns + index // each)
            dq = _queries_step(
                q, dout, lse, delta, k_desc, v_desc, b, hk, tile * TILE + index % each * BLOCK_N, pos, padding,
                N, window, scale, dq, D, DV, BLOCK_N, PRECISION, CAUSAL, WINDOWED, PADDED, True,
            )  # fmt: skip
    elif WINDOWED:
        for start in tl.range(low, high, BLOCK_N, num_stages=STAGES):
            dq = _queries_step(
                q, dout, lse, delta, k_desc, v_desc, b, hk, start, pos, padding,
                N, window, scale, dq, D, DV, BLOCK_N, PRECISION, CAUSAL, WINDOWED, PADDED, True,
            )  # fmt: skip
    else:
        whole = N // BLOCK_N * BLOCK_N
        if CAUSAL:
            whole = tl.minimum(tl.maximum(first + 1, 0) // BLOCK_N * BLOCK_N, whole)
        for start in tl.range(0, whole, BLOCK_N, num_stages=STAGES):
            dq = _queries_step(
                q, dout, lse, delta, k_desc, v_desc, b, hk, start, pos, padding,
                N, window, scale, dq, D, DV, BLOCK_N, PRECISION, False, False, PADDED, PADDED,
            )  # fmt: skip
        for start in tl.range(whole, high, BLOCK_N, num_stages=1):
            dq = _queries_step(
                q, dout, lse, delta, k_desc, v_desc, b, hk, start, pos, padding,
                N, window, scale, dq, D, DV, BLOCK_N, PRECISION, CAUSAL, False, PADDED, True,
            )  # fmt: skip
    dq_desc.store([b, h, m0, 0], (dq * factor).to(q.dtype).reshape(1, 1, BLOCK_M, D))


def attention_backward(
    dout: Tensor, dlse: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
    key_padding: Tensor | None, tiles: Tensor | None, causal: bool, window: int | None, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, k and v, in their dtypes; sums run in the same order every time."""
    batch, heads, m, d = q.shape
    shared, n, dv = k.shape[1], k.shape[2], v.shape[3]
    dq, dk, dvalue = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    if q.numel() == 0 or k.numel() == 0:
        return dq.zero_(), dk.zero_(), dvalue.zero_()
    by_keys, by_queries = gradient_shapes(d, dv, q.dtype)
    wide = width(max(d, dv))  # one for both: with narrower values Triton 3.6 gives wrong sums on a Hopper GPU
    padded = -(-m // _ROWS) * _ROWS
    delta, lse2 = (lse.new_empty(batch * heads, padded) for _ in range(2))
    padding = lse if key_padding is None else key_padding.view(torch.int8)
    _prepare[(batch * heads * padded // _ROWS,)](
        descriptor(out, _ROWS, wide), descriptor(dout, _ROWS, wide), lse, dlse.contiguous(), delta, lse2, heads, m,
        BLOCK_M=_ROWS, DV=wide,
    )  # fmt: skip
    options = {
        "D": wide, "DV": wide, "TILE": TILE, "PRECISION": precision(q.dtype), "CAUSAL": causal,
        "WINDOWED": window is not None, "PADDED": key_padding is not None, "LISTED": tiles is not None,
    }  # fmt: skip
    counts, rows = listed(None if tiles is None else tiles.t(), lse)
    _keys[(batch * shared * triton.cdiv(n, by_keys.block_n),)](
        descriptor(q, by_keys.block_m, wide), descriptor(k, by_keys.block_n, wide),
        descriptor(v, by_keys.block_n, wide), descriptor(dout, by_keys.block_m, wide),
        descriptor(dk, by_keys.block_n, wide), descriptor(dvalue, by_keys.block_n, wide),
        *(TensorDescriptor(x, [batch * heads, padded], [padded, 1], [1, by_keys.block_m]) for x in (lse2, delta)),
        padding, counts, rows,
        scale * LOG2_E, scale, heads, heads // shared, m, n, window or 0, rows.shape[-1],
        **options, **by_keys.options(),
    )  # fmt: skip
    counts, columns = listed(tiles, lse)
    _queries[(batch * heads * triton.cdiv(m, by_queries.block_m),)](
        descriptor(q, by_queries.block_m, wide), descriptor(k, by_queries.block_n, wide),
        descriptor(v, by_queries.block_n, wide), descriptor(dout, by_queries.block_m, wide),
        descriptor(dq, by_queries.block_m, wide),
        lse2, delta, padding, counts, columns,
        scale * LOG2_E, scale, heads, heads // shared, m, n, padded, window or 0, columns.shape[-1],
        **options, **by_queries.options(),
    )  # fmt: skip
    return dq, dk, dvalue
