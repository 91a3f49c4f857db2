"""Int8 in Triton: rows are scaled as they are read; a product's scales, bias and activation come before it is stored.

M rows of x, N outputs, K inputs.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from kernels.activation.fused import activated

__all__ = ["Tiles", "linear_w8a8", "quantize_rows"]

_TYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
_LONGEST_PIECE = 8192


@triton.jit
def _magnitude_bits(x):
    """|x| as the integers of its bits: they order like the numbers, with NaN above infinity."""
    return x.to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def _quantized(x, scale):
    q = tl.where(scale > 0, tl.div_rn(x, tl.where(scale > 0, scale, 1.0)), 0.0)
    q = tl.minimum(tl.maximum(q, -128.0), 127.0)
    return ((q + 12582912.0) - 12582912.0).to(tl.int8)  # 1.5 * 2**23: the sum has no fraction, rounded half to even


@triton.jit
def _scale_of(bits, Given, STATIC: tl.constexpr):
    largest = tl.max(bits).to(tl.float32, bitcast=True)
    if STATIC:
        return tl.where(largest == largest, tl.load(Given), float("nan"))
    return tl.where(largest < float("inf"), tl.div_rn(largest, 127.0), float("nan"))


@triton.jit
def _quantize(X, Given, Q, S, N, STATIC: tl.constexpr, WHOLE: tl.constexpr, BLOCK: tl.constexpr):
    row, col = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    if WHOLE:
        x = tl.load(X + row * N + col, col < N, other=0.0).to(tl.float32)
        scale = _scale_of(_magnitude_bits(x), Given, STATIC)
        tl.store(Q + row * N + col, _quantized(x, scale), col < N)
    else:
        bits = tl.zeros([BLOCK], tl.int32)
        for start in range(0, N, BLOCK):
            x = tl.load(X + row * N + start + col, start + col < N, other=0.0).to(tl.float32)
            bits = tl.maximum(bits, _magnitude_bits(x))
        scale = _scale_of(bits, Given, STATIC)
        for start in range(0, N, BLOCK):
            x = tl.load(X + row * N + start + col, start + col < N, other=0.0).to(tl.float32)
            tl.store(Q + row * N + start + col, _quantized(x, scale), start + col < N)
    tl.store(S + row, scale)


def quantize_rows(x: Tensor, scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
    rows, n = x.shape
    q, scales = x.new_empty(x.shape, dtype=torch.int8), x.new_empty(rows, dtype=torch.float32)
    if rows:
        block = min(triton.next_power_of_2(max(n, 16)), _LONGEST_PIECE)
        given = scales if scale is None else scale
        _quantize[(rows,)](
            x.contiguous(), given, q, scales, n, STATIC=scale is not None, WHOLE=n <= block, BLOCK=block,
            num_warps=min(max(block // 1024, 1), 8),
        )  # fmt: skip
    return q, scales


# ---- the product


class Tiles(NamedTuple):
    """How a product is cut: tiles of M x N results, K at a time, and how many programs share them."""

    m: int
    n: int
    k: int
    warps: int
    stages: int
    group: int = 8  # tiles in M that go together, so that the weights they share stay in the cache
    per_sm: int = 1  # programs a multiprocessor; 0: one for each tile


@triton.jit
def _tile_at(tile, tiles_m, tiles_n, GROUP: tl.constexpr):
    per_group = GROUP * tiles_n
    first = tile // per_group * GROUP
    high = min(tiles_m - first, GROUP)
    return first + tile % per_group % high, tile % per_group // high


@triton.jit
def _product(
    X, W, XS, WS, Bias, Out, M, N, K,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr,
    TMA: tl.constexpr, BIAS: tl.constexpr, ACTIVATION: tl.constexpr, OUT: tl.constexpr,
):  # fmt: skip
    tiles_m, tiles_n = tl.cdiv(M, BM), tl.cdiv(N, BN)
    for tile in tl.range(tl.program_id(0), tiles_m * tiles_n, tl.num_programs(0), flatten=True):
        at_m, at_n = _tile_at(tile, tiles_m, tiles_n, GROUP)
        m, n = at_m * BM + tl.arange(0, BM), at_n * BN + tl.arange(0, BN)
        sums = tl.zeros([BM, BN], tl.int32)
        for k in range(0, K, BK):
            if TMA:
                x, w = X.load([at_m * BM, k]), W.load([at_n * BN, k])
            else:
                of_k = k + tl.arange(0, BK)
                of_m, of_n = m.to(tl.int64)[:, None] * K + of_k, n.to(tl.int64)[:, None] * K + of_k
                x = tl.load(X + of_m, (m < M)[:, None] & (of_k < K), other=0)
                w = tl.load(W + of_n, (n < N)[:, None] & (of_k < K), other=0)
            sums = tl.dot(x, w.T, sums, out_dtype=tl.int32)
        out = sums.to(tl.float32) * tl.load(XS + m, m < M, other=0.0)[:, None]
        out = out * tl.load(WS + n, n < N, other=0.0)
        if BIAS:
            out += tl.load(Bias + n, n < N, other=0.0).to(tl.float32)
        out = activated(out, ACTIVATION, tl.float32 == OUT).to(OUT)
        if TMA:  # by halves: what is stored waits in shared memory, which the tiles of the next steps need
            left, right = out.reshape(BM, 2, BN // 2).permute(0, 2, 1).split()
            Out.store([at_m * BM, at_n * BN], left)
            Out.store([at_m * BM, at_n * BN + BN // 2], right)
        else:
            tl.store(Out + m.to(tl.int64)[:, None] * N + n, out, (m < M)[:, None] & (n < N))


def linear_w8a8(
    x: Tensor,
    x_scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    activation: str,
    dtype: torch.dtype,
    tiles: Tiles | None = None,
) -> Tensor:
    x, weight = x.contiguous(), weight.contiguous()
    (rows, n), outs = x.shape, weight.shape[0]
    out = x.new_empty(rows, outs, dtype=dtype)
    if not rows or not outs:
        return out
    tiles = tiles or _tiles(rows, outs)
    cut = triton.cdiv(rows, tiles.m) * triton.cdiv(outs, tiles.n)
    grid = min(cut, tiles.per_sm * _multiprocessors(x.device)) if tiles.per_sm else cut
    tma = _has_tma(x.device) and all(map(_describable, (x, weight, out)))
    _product[(grid,)](
        _described(x, (tiles.m, tiles.k), tma), _described(weight, (tiles.n, tiles.k), tma),
        x_scale.contiguous(), weight_scale.contiguous(), weight_scale if bias is None else bias.contiguous(),
        _described(out, (tiles.m, tiles.n // 2), tma), rows, outs, n,
        BM=tiles.m, BN=tiles.n, BK=tiles.k, GROUP=tiles.group, TMA=tma, BIAS=bias is not None,
        ACTIVATION=activation, OUT=_TYPES[dtype], num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip
    return out


def _describable(x: Tensor) -> bool:
    """Whether the memory access of Hopper takes a matrix: it begins, and its rows do, at multiples of 16 bytes."""
    return x.numel() > 0 and x.stride(0) * x.element_size() % 16 == 0 and x.data_ptr() % 16 == 0


def _described(x: Tensor, block: tuple[int, int], tma: bool) -> Tensor | TensorDescriptor:
    return TensorDescriptor.from_tensor(x, list(block)) if tma else x


def _tiles(rows: int, outs: int) -> Tiles:
    if rows <= 64:
        return Tiles(max(triton.next_power_of_2(rows), 16), 64, 128, 4, 4, per_sm=0)
    if rows <= 512:
        return Tiles(64, 128, 128, 4, 4, per_sm=0)
    return Tiles(128, 128, 128, 4, 3, per_sm=2)


@cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2


@cache
def _has_tma(device: torch.device) -> bool:
    """Tensor memory access came with Hopper; the interpreter knows descriptors as well."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (9, 0)
