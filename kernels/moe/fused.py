"""A mixture of experts in Triton: choices are counted and placed, rows copied together, matrices multiplied by group.

Rows of x are copied into an order in which those of one expert follow each other, and each expert's begin at a multiple
of ROWS: so that a tile of a product has one expert. Rows that fill up are zeros. Nothing here waits for the device: how
many tiles there are is read where the work is done.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from kernels.activation.fused import activated, activated_and_slope
from kernels.moe.layers import Layers
from kernels.moe.operators import ROWS

__all__ = ["Layout", "Tiles", "by_rows", "by_weights", "experts", "experts_backward", "placed"]

_BLOCK = 512
"""Choices that a program counts."""


class Layout(NamedTuple):
    """Where the choices went. Choice c = token * k + j; E experts."""

    slot: Tensor
    """(choices,) int32: the row of a choice."""
    choice: Tensor
    """(rows,) int32: the choice of a row, -1 where it fills up; beyond the last expert's end nothing is written."""
    start: Tensor
    """(E + 1,) int32: the first row of each expert, and the end of the last."""
    expert: Tensor
    """(rows / ROWS,) int32: the expert of each tile of rows."""


@triton.jit
def _is_of(Chosen, choice, CHOICES, E: tl.constexpr):
    """[BLOCK, E]: 1 where a choice is of an expert."""
    chosen = tl.load(Chosen + choice, choice < CHOICES, other=-1).to(tl.int32)
    return (chosen[:, None] == tl.arange(0, E)[None, :]).to(tl.int32)


@triton.jit
def _count(Chosen, Counts, CHOICES, E: tl.constexpr, BLOCK: tl.constexpr):
    block = tl.program_id(0)
    counts = tl.sum(_is_of(Chosen, block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK), CHOICES, E), 0)
    tl.store(Counts + block * E + tl.arange(0, E), counts)


@triton.jit
def _place(
    Chosen, Counts, Slot, Choice, Start, Expert, CHOICES, BLOCKS, TILES, EXPERTS,
    E: tl.constexpr, BLOCK: tl.constexpr, SOME: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Each block adds up the counts of all for itself, and places its own choices."""
    block, experts = tl.program_id(0), tl.arange(0, E)
    total, before = tl.zeros([E], tl.int32), tl.zeros([E], tl.int32)
    for first in range(0, BLOCKS, SOME):
        others = first + tl.arange(0, SOME)
        counts = tl.load(Counts + others[:, None] * E + experts[None, :], (others < BLOCKS)[:, None], other=0)
        total += tl.sum(counts, 0)
        before += tl.sum(tl.where((others < block)[:, None], counts, 0), 0)
    filled = (total + ROWS - 1) // ROWS * ROWS
    end = tl.cumsum(filled, 0)
    choice = block.to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    here = _is_of(Chosen, choice, CHOICES, E)
    rank = tl.cumsum(here, 0) - here
    slot = tl.sum(here * (rank + (end - filled + before)[None, :]), 1)
    tl.store(Slot + choice, slot, choice < CHOICES)
    tl.store(Choice + slot, choice.to(tl.int32), choice < CHOICES)
    if block == 0:
        tl.store(Start, 0)
        fill = tl.arange(0, ROWS)[None, :]
        tl.store(Choice + (end - filled + total)[:, None] + fill, -1, total[:, None] + fill < filled[:, None])
        tl.store(Start + 1 + experts, end, experts < EXPERTS)
        for first in range(0, TILES, SOME):
            tile = first + tl.arange(0, SOME)
            expert = tl.sum((tile[:, None] * ROWS >= end[None, :]).to(tl.int32), 1)
            tl.store(Expert + tile, tl.minimum(expert, EXPERTS - 1), tile < TILES)


def placed(chosen: Tensor, experts: int) -> Layout:
    choices = chosen.numel()
    blocks, tiles = triton.cdiv(choices, _BLOCK), choices // ROWS + experts
    e = triton.next_power_of_2(experts)
    sizes = choices, tiles * ROWS, experts + 1, tiles, blocks * e
    *parts, counts = (chosen.new_empty(size, dtype=torch.int32) for size in sizes)
    layout = Layout(*parts)
    if choices:
        _count[(blocks,)](chosen, counts, choices, E=e, BLOCK=_BLOCK)
        _place[(blocks,)](
            chosen, counts, *layout, choices, blocks, tiles, experts, E=e, BLOCK=_BLOCK, SOME=64, ROWS=ROWS
        )
    return layout


# ---- rows together, and back


@triton.jit
def _gather(
    X, Y, Gates, Choice, Start, Out, DGates, D, K, EXPERTS,
    BACKWARD: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Rows by expert. Backward, X is the gradient of the result: times the gate, and with Y the gate's gradient."""
    row, col = tl.program_id(0), tl.arange(0, BLOCK)
    if row < tl.load(Start + EXPERTS):
        choice = tl.load(Choice + row)
        token, at = (tl.maximum(choice, 0) // K).to(tl.int64), row.to(tl.int64) * D
        width = tl.where(choice >= 0, D, 0)
        along = tl.zeros([1], tl.float32)
        gate = tl.load(Gates + tl.maximum(choice, 0)).to(tl.float32) if BACKWARD else 1.0
        for first in range(0, D, BLOCK):
            d = first + col
            x = tl.load(X + token * D + d, d < width, other=0.0)
            if BACKWARD:
                wide = x.to(tl.float32)
                along += tl.sum(wide * tl.load(Y + at + d, d < width, other=0.0).to(tl.float32), 0)
                x = tl.where(d < width, wide * gate, 0.0).to(Out.dtype.element_ty)
            tl.store(Out + at + d, x, d < D)
        if BACKWARD and choice >= 0:
            tl.store(DGates + choice + tl.arange(0, 1), along.to(DGates.dtype.element_ty))


@triton.jit
def _combine(Y, Gates, Slot, Out, D, K: tl.constexpr, GATED: tl.constexpr, BLOCK: tl.constexpr):
    token, col = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    for first in range(0, D, BLOCK):
        d = first + col
        out = tl.zeros([BLOCK], tl.float32)
        for j in tl.static_range(K):
            row = tl.load(Slot + token * K + j).to(tl.int64)
            y = tl.load(Y + row * D + d, d < D, other=0.0).to(tl.float32)
            if GATED:
                y = y * tl.load(Gates + token * K + j).to(tl.float32)
            out += y
        tl.store(Out + token * D + d, out.to(Out.dtype.element_ty), d < D)


# ---- products by group


class Tiles(NamedTuple):
    """How a product is cut: tiles of m x n results, k at a time."""

    m: int
    n: int
    k: int
    warps: int
    stages: int
    group: int = 8  # tiles in m that go together, so that the weights they share stay in the cache
    per_sm: int = 1  # programs a multiprocessor; 0: one for each tile


@triton.jit
def _tile_at(tile, tiles_m, tiles_n, GROUP: tl.constexpr):
    per_group = GROUP * tiles_n
    first = tile // per_group * GROUP
    high = min(tiles_m - first, GROUP)
    return first + tile % per_group % high, tile % per_group // high


@triton.jit
def _halves(sums, BM: tl.constexpr, BN: tl.constexpr):
    """Left and right: what is stored waits in shared memory, which the tiles of the next steps need."""
    return sums.reshape(BM, 2, BN // 2).permute(0, 2, 1).split()


@triton.jit
def _finish(
    sums, Bias, Slope, Out, row, col, expert, N,
    BN: tl.constexpr, BIAS: tl.constexpr, KEEP: tl.constexpr, END: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    if BIAS:
        n = col + tl.arange(0, BN)
        sums += tl.load(Bias + expert * N + n, n < N, other=0.0).to(tl.float32)[None, :]
    if END == "activate" and KEEP:
        sums, dsums = activated_and_slope(sums, ACTIVATION)
        Slope.store([row, col], dsums.to(Slope.dtype))
    elif END == "activate":
        sums = activated(sums, ACTIVATION, False)
    elif END == "slope":
        sums = sums * Slope.load([row, col]).to(tl.float32)
    Out.store([row, col], sums.to(Out.dtype))


@triton.jit
def _rows_by_weights(
    X, W, Bias, Slope, Out, Start, Expert, N, K, EXPERTS,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, ROWS: tl.constexpr, GROUP: tl.constexpr,
    TRANSPOSED: tl.constexpr, BIAS: tl.constexpr, KEEP: tl.constexpr, END: tl.constexpr,
    ACTIVATION: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """Out = X Wᵀ + bias with W (E, N, K), or X W with W (E, K, N) where TRANSPOSED.

    END "activate": the activation of that, with its slope in Slope if asked for; "slope": times what Slope holds.
    """
    tiles_m, tiles_n = tl.load(Start + EXPERTS) // BM, tl.cdiv(N, BN)
    for tile in tl.range(tl.program_id(0), tiles_m * tiles_n, tl.num_programs(0), flatten=True):
        at_m, at_n = _tile_at(tile, tiles_m, tiles_n, GROUP)
        expert = tl.load(Expert + at_m * BM // ROWS)
        sums = tl.zeros([BM, BN], tl.float32)
        for k in range(0, K, BK):
            x = X.load([at_m * BM, k])
            if TRANSPOSED:
                w = W.load([expert, k, at_n * BN]).reshape(BK, BN)
            else:
                w = W.load([expert, at_n * BN, k]).reshape(BN, BK).T
            sums = tl.dot(x.to(DOT), w.to(DOT), sums)
        left, right = _halves(sums, BM, BN)
        row, col = at_m * BM, at_n * BN
        _finish(left, Bias, Slope, Out, row, col, expert, N, BN // 2, BIAS, KEEP, END, ACTIVATION)
        _finish(right, Bias, Slope, Out, row, col + BN // 2, expert, N, BN // 2, BIAS, KEEP, END, ACTIVATION)


@triton.jit
def _rows_by_rows(
    A, B, Out, Start, M, N, EXPERTS,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """Out (E, M, N) = Aᵀ B over the rows of each expert, A (rows, M) and B (rows, N)."""
    tiles_m, tiles_n = tl.cdiv(M, BM), tl.cdiv(N, BN)
    each = tiles_m * tiles_n
    for tile in tl.range(tl.program_id(0), EXPERTS * each, tl.num_programs(0), flatten=True):
        expert = tile // each
        at_m, at_n = _tile_at(tile % each, tiles_m, tiles_n, GROUP)
        sums = tl.zeros([BM, BN], tl.float32)
        for row in range(tl.load(Start + expert), tl.load(Start + expert + 1), BK):
            a, b = A.load([row, at_m * BM]), B.load([row, at_n * BN])
            sums = tl.dot(a.T.to(DOT), b.to(DOT), sums)
        left, right = _halves(sums, BM, BN)
        Out.store([expert, at_m * BM, at_n * BN], left.to(Out.dtype).reshape(1, BM, BN // 2))
        Out.store([expert, at_m * BM, at_n * BN + BN // 2], right.to(Out.dtype).reshape(1, BM, BN // 2))


@triton.jit
def _sums_of_rows(A, Out, Start, N, BLOCK: tl.constexpr, ROWS: tl.constexpr):
    """Out (E, N): the sum of each expert's rows of A (rows, N)."""
    expert, n = tl.program_id(0), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    sums = tl.zeros([BLOCK], tl.float32)
    for first in range(tl.load(Start + expert), tl.load(Start + expert + 1), ROWS):
        row = (first + tl.arange(0, ROWS)).to(tl.int64)
        sums += tl.sum(tl.load(A + row[:, None] * N + n[None, :], (n < N)[None, :], other=0.0).to(tl.float32), 0)
    tl.store(Out + expert * N + n, sums.to(Out.dtype.element_ty), n < N)


# ---- what calls them


def experts(x: Tensor, chosen: Tensor, gates: Tensor, layers: Layers, keep: bool) -> list[Tensor]:
    """The result, and what its gradients need: the layout, and rows of x, of the slopes (if kept), of H and of Y."""
    w_in, b_in, w_out, b_out, activation = layers
    x, chosen, gates, w_in, w_out = x.contiguous(), chosen.contiguous(), gates.contiguous(), _even(w_in), _even(w_out)
    layout = placed(chosen, w_in.shape[0])
    rows, hidden = layout.choice.shape[0], w_in.shape[1]
    gathered, y = x.new_empty(rows, x.shape[1]), x.new_empty(rows, x.shape[1])
    slopes, h = x.new_empty(rows, hidden if keep else 0), x.new_empty(rows, hidden)
    out = torch.empty_like(x)
    if chosen.numel():
        _gather[(rows,)](
            x, x, x, layout.choice, layout.start, gathered, x, x.shape[1], chosen.shape[1], w_in.shape[0],
            BACKWARD=False, ROWS=ROWS, BLOCK=_row_block(x),
        )  # fmt: skip
        by_weights(gathered, w_in, b_in, slopes if keep else None, h, layout, end="activate", activation=activation)
        by_weights(h, w_out, b_out, None, y, layout)
        _combined(y, gates, layout.slot, out)
    return [out, *layout, gathered, slopes, h, y]


def experts_backward(
    grad: Tensor, x: Tensor, chosen: Tensor, gates: Tensor, layers: Layers, saved: list[Tensor]
) -> list[Tensor]:
    """Gradients of x, gates, w_in, b_in, w_out and b_out; the biases' are empty where there are none."""
    layout, (gathered, slopes, h, y) = Layout(*saved[:4]), saved[4:]
    b_in, w_in, w_out = layers.b_in, _even(layers.w_in), _even(layers.w_out)
    grad, gates = grad.contiguous(), gates.contiguous()
    dx, dgates = torch.empty_like(grad), torch.empty_like(gates)
    dw_in, dw_out = torch.empty_like(w_in), torch.empty_like(w_out)
    db_in, db_out = (w.new_empty(w.shape[:2] if b_in is not None else 0) for w in (w_in, w_out))
    if not chosen.numel():
        return [dx, dgates, dw_in.zero_(), db_in.zero_(), dw_out.zero_(), db_out.zero_()]
    dy = torch.empty_like(y)
    _gather[(y.shape[0],)](
        grad, y, gates, layout.choice, layout.start, dy, dgates, grad.shape[1], chosen.shape[1], w_in.shape[0],
        BACKWARD=True, ROWS=ROWS, BLOCK=_row_block(grad),
    )  # fmt: skip
    dz, dgathered = torch.empty_like(slopes), torch.empty_like(gathered)
    by_weights(dy, w_out, None, slopes, dz, layout, end="slope", transposed=True)
    by_rows(dy, h, dw_out, layout)
    by_weights(dz, w_in, None, None, dgathered, layout, transposed=True)
    by_rows(dz, gathered, dw_in, layout)
    _combined(dgathered, None, layout.slot, dx)
    if b_in is not None:
        for rows, out in ((dz, db_in), (dy, db_out)):
            _sums_of_rows[(out.shape[0], triton.cdiv(out.shape[1], 64))](
                rows, out, layout.start, out.shape[1], BLOCK=64, ROWS=ROWS
            )
    return [dx, dgates, dw_in, db_in, dw_out, db_out]


def by_weights(
    x: Tensor, w: Tensor, bias: Tensor | None, slopes: Tensor | None, out: Tensor, layout: Layout, *,
    end: str = "", activation: str = "none", transposed: bool = False, tiles: Tiles | None = None,
) -> None:  # fmt: skip
    tiles = tiles or _TILES[end if end != "activate" or slopes is not None else "activate only"]
    (rows, n), k = out.shape, x.shape[1]
    block = [1, tiles.k, tiles.n] if transposed else [1, tiles.n, tiles.k]
    half = [tiles.m, tiles.n // 2]
    described = TensorDescriptor.from_tensor(out, half)
    _rows_by_weights[(_programs(triton.cdiv(rows, tiles.m) * triton.cdiv(n, tiles.n), tiles, x),)](
        TensorDescriptor.from_tensor(x, [tiles.m, tiles.k]), TensorDescriptor.from_tensor(w, block),
        w if bias is None else bias, described if slopes is None else TensorDescriptor.from_tensor(slopes, half),
        described, layout.start, layout.expert, n, k, w.shape[0],
        BM=tiles.m, BN=tiles.n, BK=tiles.k, ROWS=ROWS, GROUP=tiles.group, TRANSPOSED=transposed, BIAS=bias is not None,
        KEEP=slopes is not None, END=end, ACTIVATION=activation, DOT=_factors(x),
        num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip


def by_rows(a: Tensor, b: Tensor, out: Tensor, layout: Layout, *, tiles: Tiles | None = None) -> None:
    tiles = tiles or _TILES["rows"]
    experts, m, n = out.shape
    _rows_by_rows[(_programs(experts * triton.cdiv(m, tiles.m) * triton.cdiv(n, tiles.n), tiles, a),)](
        TensorDescriptor.from_tensor(a, [tiles.k, tiles.m]), TensorDescriptor.from_tensor(b, [tiles.k, tiles.n]),
        TensorDescriptor.from_tensor(out, [1, tiles.m, tiles.n // 2]), layout.start, m, n, experts,
        BM=tiles.m, BN=tiles.n, BK=tiles.k, GROUP=tiles.group, DOT=_factors(a),
        num_warps=tiles.warps, num_stages=tiles.stages,
    )  # fmt: skip


_TILES = {
    "": Tiles(128, 256, 64, 8, 4),
    "activate": Tiles(128, 256, 64, 8, 4),
    "activate only": Tiles(128, 128, 64, 8, 3, per_sm=2),  # one program's arithmetic beside the other's products
    "slope": Tiles(128, 256, 64, 8, 3),  # slopes take a stage's room
    "rows": Tiles(128, 256, 64, 8, 3),
}
"""By what comes behind a product, as measured on an H100; of rows by rows the last."""


def _combined(y: Tensor, gates: Tensor | None, slot: Tensor, out: Tensor) -> None:
    given = y if gates is None else gates
    _combine[(out.shape[0],)](
        y, given, slot, out, out.shape[1], K=slot.numel() // out.shape[0], GATED=gates is not None, BLOCK=_row_block(y)
    )


def _even(w: Tensor) -> Tensor:
    """Contiguous, and where Hopper's memory access takes it: at a multiple of 16 bytes."""
    w = w.contiguous()
    return w if w.data_ptr() % 16 == 0 else w.clone()


def _row_block(x: Tensor) -> int:
    return min(int(triton.next_power_of_2(x.shape[1])), 2048)


def _programs(most: int, tiles: Tiles, x: Tensor) -> int:
    if not x.is_cuda:
        return 2
    return min(most, tiles.per_sm * _multiprocessors(x.device)) if tiles.per_sm else most


@cache
def _multiprocessors(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def _factors(x: Tensor) -> tl.dtype:
    """What is multiplied; Triton's interpreter would take bfloat16 for the integers of its bits."""
    if x.dtype == torch.bfloat16:
        return tl.bfloat16 if x.is_cuda else tl.float32
    return tl.float16
