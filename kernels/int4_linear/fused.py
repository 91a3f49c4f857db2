"""Int4 weights in Triton, for few rows of x: they are read as they lie, and become floats in registers.

M rows of x, N outputs, K inputs. A word of 32 bits holds eight weights of one output: k = 8w .. 8w+7 from its low end.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["Cut", "linear_int4"]


@triton.jit
def _pairs(words, FIRST: tl.constexpr, zero, OF: tl.constexpr, ASM: tl.constexpr):
    """Nibbles FIRST and FIRST + 4 of each word less `zero`, exactly, as the halves of a new last axis.

    A float that ends in the nibble's bits: bfloat16 0x4300 is 128 and counts by ones, as float16 0x6400, 1024, does.
    ASM says it in one instruction (a & b | c), for which the compiler takes two where b and c are constants.
    """
    MAGIC: tl.constexpr = 0x43004300 if tl.bfloat16 == OF else 0x64006400
    BASE: tl.constexpr = 128.0 if tl.bfloat16 == OF else 1024.0
    words = words >> (4 * FIRST)
    if ASM:
        magic = tl.full([1], MAGIC, tl.int32)
        both = tl.inline_asm_elementwise(
            "lop3.b32 $0, $1, 0x000F000F, $2, 0xEA;", "=r,r,r", [words, magic], dtype=tl.int32, is_pure=True, pack=1
        )
    else:
        both = (words & 0x000F000F) | MAGIC
    low, high = both.to(tl.int16).to(OF, bitcast=True), (both >> 16).to(tl.int16).to(OF, bitcast=True)
    offset = (zero + BASE).to(OF).to(tl.float32)  # all of it fits OF, in which the compiler then subtracts
    return tl.join((low.to(tl.float32) - offset).to(OF), (high.to(tl.float32) - offset).to(OF))


@triton.jit
def _few_rows(
    X, W, S, Z, Bias, Out, M, N, K,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, SLICES: tl.constexpr, GROUP: tl.constexpr,
    EVEN: tl.constexpr, ZEROS: tl.constexpr, BIAS: tl.constexpr, OF: tl.constexpr, DOT: tl.constexpr,
    ASM: tl.constexpr,
):  # fmt: skip
    """Sixteen outputs or more a program; each warp has slices of K of its own, which are added at the end.

    EVEN: no slice and no output sticks out, and some masks, a tenth of the instructions, are left out.
    """
    n, m = tl.program_id(0) * BN + tl.arange(0, BN), tl.program_id(1) * BM + tl.arange(0, BM)
    slices = tl.arange(0, SLICES)
    word, quad = tl.arange(0, BK // 8), tl.arange(0, BK // 4)
    of_n, of_m = n.to(tl.int64)[None, :], m.to(tl.int64)[None, None, :]
    groups = K // GROUP
    sums = tl.zeros([SLICES, BN, BM], tl.float32)
    for start in range(0, K, SLICES * BK):
        k = start + slices * BK  # [SLICES]
        within = (k < K)[:, None] & (n < N)[None, :]  # [SLICES, BN]
        at = of_n[:, :, None] * (K // 8) + (k // 8)[:, None, None] + word[None, None, :]
        group = of_n * groups + (k // GROUP)[:, None]
        words = tl.load(W + at, within[:, :, None], other=0)  # [SLICES, BN, BK / 8]
        at = of_m * (K // 4) + (k // 4)[:, None, None] + quad[None, :, None]
        if EVEN:
            scale = tl.load(S + group).to(tl.float32)
            quads = tl.load(X + at, (m < M)[None, None, :], other=0)  # [SLICES, BK / 4, BM]
        else:
            scale = tl.load(S + group, within, other=0.0).to(tl.float32)
            quads = tl.load(X + at, (k < K)[:, None, None] & (m < M)[None, None, :], other=0)
        if ZEROS:
            zero = tl.load(Z + group, within, other=0).to(tl.float32)[:, :, None]
        else:
            zero = tl.full([1, 1, 1], 8.0, tl.float32)
        part = tl.zeros([SLICES, BN, BM], tl.float32)
        for i in tl.static_range(4):
            w = tl.reshape(_pairs(words, i, zero, OF, ASM), [SLICES, BN, BK // 4])
            x = (quads >> (16 * i)).to(tl.int16).to(OF, bitcast=True)
            part = tl.dot(w.to(DOT), x.to(DOT), part)
        sums += part * scale[:, :, None]
    out = tl.sum(sums, 0)  # [BN, BM]
    if BIAS:
        out += tl.load(Bias + n, n < N, other=0.0).to(tl.float32)[:, None]
    at = m.to(tl.int64)[None, :] * N + n[:, None]
    tl.store(Out + at, out.to(OF), (m < M)[None, :] & (n < N)[:, None])


_BLOCK = 128
"""Inputs that a slice takes at a time; of one group."""


class Cut(NamedTuple):
    """How the work is cut: outputs a program, slices of K at once, and rows of x a program."""

    n: int
    k: int
    warps: int
    stages: int
    m: int


def linear_int4(
    x: Tensor, weight: Tensor, scale: Tensor, zero: Tensor | None, bias: Tensor | None, cut: Cut | None = None
) -> Tensor:
    (rows, n), outs = x.shape, weight.shape[0]
    out = x.new_empty(rows, outs)
    if not (rows and outs):
        return out
    cut = cut or _cut(rows, outs)
    group = n // scale.shape[1]
    words, quads = _as(weight, torch.int32), _as(x, torch.int64)
    _few_rows[(triton.cdiv(outs, cut.n), triton.cdiv(rows, cut.m))](
        quads, words, scale.contiguous(), scale if zero is None else zero.contiguous(),
        scale if bias is None else bias.contiguous(), out, rows, outs, n,
        BM=cut.m, BN=cut.n, BK=_BLOCK, SLICES=cut.k, GROUP=group, EVEN=n % (cut.k * _BLOCK) == 0 and outs % cut.n == 0,
        ZEROS=zero is not None, BIAS=bias is not None, OF=tl.bfloat16 if x.dtype == torch.bfloat16 else tl.float16,
        DOT=_factors(x), ASM=x.is_cuda, num_warps=cut.warps, num_stages=cut.stages,
    )  # fmt: skip
    return out


def _as(t: Tensor, dtype: torch.dtype) -> Tensor:
    """The same bytes as wider numbers, moved where they do not begin at a multiple of those."""
    t = t.contiguous()
    return (t if t.data_ptr() % 16 == 0 else t.clone()).view(dtype)


def _factors(x: Tensor) -> tl.dtype:
    """What is multiplied; Triton's interpreter would take bfloat16 for the integers of its bits."""
    if x.dtype == torch.bfloat16:
        return tl.bfloat16 if x.is_cuda else tl.float32
    return tl.float16


def _cut(rows: int, outs: int) -> Cut:
    """Many programs first; with many outputs there are enough of them that each may keep x for more."""
    many = outs >= 12_288
    if rows <= 8:
        return Cut(32, 4, 4, 3, 8) if many else Cut(16, 8, 8, 3, 8)
    return Cut(64, 4, 4, 3, 16) if many else Cut(16, 4, 4, 3, 16)
