"""Correlation between columns in Triton: the lower half of the product, of data that are shifted on their way in.

Programs share a tile of the product or a range of rows, never both: `_products` writes each one's sums to memory of its
own, `_finish` adds them in a fixed order, so that results repeat to the bit. Tiles of one range of rows run side by
side, and find it in the cache.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from kernels.correlation.columns.moments import SAMPLED_ROWS
from kernels.machine import machine_of
from kernels.memory import require

__all__ = ["comoments", "correlation", "workspace_bytes"]

_TILE = 128
_FINISHED = 32
_PLACES = 2
"""Programs that a multiprocessor holds."""
_WAVES = 5
_MOST_RANGES = 64
_FEWEST_ROWS = 512
"""Of a range: fewer would be adding partial sums more than making them."""


@triton.jit
def _shift(X, Shift, D, stride, rows, SPARING: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr):
    """The mean of every stride-th row, within what was seen, so that a constant column's is its value to the bit.

    SPARING leaves columns where they are whose mean is so few deviations from zero that sums of products can bear it.
    """
    row, col = tl.arange(0, BT), tl.program_id(0) * BD + tl.arange(0, BD)
    mask = (row < rows)[:, None] & (col < D)[None, :]
    origin = tl.load(X + col, col < D, other=0.0).to(tl.float32)
    x = tl.load(X + (row.to(tl.int64) * stride * D)[:, None] + col[None, :], mask, other=0.0).to(tl.float32)
    x = tl.where(mask, x, origin[None, :])
    lowest, highest = tl.min(x, 0), tl.max(x, 0)
    away = x - origin[None, :]
    offset = tl.sum(away, 0) / rows
    mean = origin + offset
    mean = tl.where(mean < lowest, lowest, tl.where(mean > highest, highest, mean))  # NaN stays
    if SPARING:
        variance = tl.sum(away * away, 0) / rows - offset * offset
        mean = tl.where(mean * mean > 16.0 * variance, mean, 0.0)
    tl.store(Shift + col, mean.to(Shift.dtype.element_ty), col < D)


@triton.jit
def _tile_of(t):
    """Row and column of the t-th tile of the lower half."""
    i = ((tl.sqrt(8.0 * t + 1.0) - 1.0) / 2.0).to(tl.int32)
    i = tl.where(i * (i + 1) // 2 > t, i - 1, i)
    i = tl.where((i + 1) * (i + 2) // 2 <= t, i + 1, i)
    return i, t - i * (i + 1) // 2


@triton.jit
def _load(X, row, col, shift, last, D, WHOLE: tl.constexpr, WIDE: tl.constexpr):
    """[BT, BD] shifted elements, zero outside."""
    at = X + row.to(tl.int64)[:, None] * D + col[None, :]
    mask = (row < last)[:, None] & (col < D)[None, :]
    x = tl.load(at) if WHOLE else tl.load(at, mask, other=0.0)
    y = x.to(tl.float32) - shift.to(tl.float32)[None, :]
    y = y if WHOLE else tl.where(mask, y, 0.0)
    return y if WIDE else y.to(x.dtype)


@triton.jit
def _products(
    X, Shift, Part, Sums, T, D, tiles, range_rows,
    BD: tl.constexpr, BT: tl.constexpr, WHOLE: tl.constexpr, WIDE: tl.constexpr, SPARING: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Σ y_iᵀ y_j over a range of rows, for one tile (i, j); and Σ y_i, where i = j. SPARING: of shifted tiles alone."""
    tile, split = tl.program_id(0) % tiles, tl.program_id(0) // tiles
    i, j = _tile_of(tile)
    first, last = split * range_rows, tl.minimum(split * range_rows + range_rows, T)
    col_i, col_j = i * BD + tl.arange(0, BD), j * BD + tl.arange(0, BD)
    shift_i = tl.load(Shift + col_i, col_i < D, other=0.0)
    shift_j = tl.load(Shift + col_j, col_j < D, other=0.0)
    if (not SPARING) or _is_shifted(shift_i, shift_j):
        found = tl.zeros([BD, BD], tl.float32)
        if i == j:
            sums = tl.zeros([BT, BD], tl.float32)
            for row in tl.range(first, last, BT, num_stages=STAGES):
                y = _load(X, row + tl.arange(0, BT), col_i, shift_i, last, D, WHOLE, WIDE)
                found = tl.dot(tl.trans(y), y, found, input_precision=PRECISION)
                sums += y.to(tl.float32)
            tl.store(Sums + split * D + col_i, tl.sum(sums, 0), col_i < D)
        else:
            for row in tl.range(first, last, BT, num_stages=STAGES):
                rows = row + tl.arange(0, BT)
                y = _load(X, rows, col_i, shift_i, last, D, WHOLE, WIDE)
                z = _load(X, rows, col_j, shift_j, last, D, WHOLE, WIDE)
                found = tl.dot(tl.trans(y), z, found, input_precision=PRECISION)
        tl.store(_slot(Part, tl.program_id(0), BD), found)


@triton.jit
def _plain_products(
    x, Shift, Part, Sums, T, D, tiles, range_rows, BD: tl.constexpr, BT: tl.constexpr, STAGES: tl.constexpr
):
    """The same of tiles that are not shifted: the copy engine brings them straight to the tensor cores' memory."""
    tile, split = tl.program_id(0) % tiles, tl.program_id(0) // tiles
    i, j = _tile_of(tile)
    first, last = split * range_rows, tl.minimum(split * range_rows + range_rows, T)
    col_i, col_j = i * BD + tl.arange(0, BD), j * BD + tl.arange(0, BD)
    shift_i = tl.load(Shift + col_i, col_i < D, other=0.0)
    shift_j = tl.load(Shift + col_j, col_j < D, other=0.0)
    if not _is_shifted(shift_i, shift_j):
        found = tl.zeros([BD, BD], tl.float32)
        if i == j:
            sums = tl.zeros([BT, BD], tl.float32)
            for row in tl.range(first, last, BT, num_stages=STAGES):
                y = x.load([row, i * BD])  # zero outside of x
                found = tl.dot(tl.trans(y), y, found)
                sums += y.to(tl.float32)
                found = _ended(found)
            tl.store(Sums + split * D + col_i, tl.sum(sums, 0), col_i < D)
        else:
            for row in tl.range(first, last, BT, num_stages=STAGES):
                y, z = x.load([row, i * BD]), x.load([row, j * BD])
                found = tl.dot(tl.trans(y), z, found)
        tl.store(_slot(Part, tl.program_id(0), BD), found)


@triton.jit
def _ended(x):
    """x, once it is there.

    Triton (3.6 to 3.9) gives tiles that are multiplied and read besides one buffer too few: the copy engine would write
    a later one over what a product in flight reads. Waiting is all that this costs: `ptxas` drops the instruction.
    """
    return tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [x], dtype=tl.float32, is_pure=True, pack=1)


@triton.jit
def _is_shifted(shift_i, shift_j):
    return tl.max(tl.maximum(tl.abs(shift_i.to(tl.float32)), tl.abs(shift_j.to(tl.float32)))) > 0


@triton.jit
def _slot(Part, program, BD: tl.constexpr):
    """[BD, BD] where a program leaves its sums."""
    return Part + program.to(tl.int64) * BD * BD + tl.arange(0, BD)[:, None] * BD + tl.arange(0, BD)[None, :]


@triton.jit
def _offset(Sums, col, T, D, SPLITS: tl.constexpr, AT_ONCE: tl.constexpr):
    """Means of the shifted columns."""
    split = tl.arange(0, AT_ONCE)
    mask = (split < SPLITS)[:, None] & (col < D)[None, :]
    return tl.sum(tl.load(Sums + split[:, None] * D + col[None, :], mask, other=0.0), 0) / T


@triton.jit
def _length(
    Part, block, offset, T, tiles, SPLITS: tl.constexpr, AT_ONCE: tl.constexpr, BD: tl.constexpr, BF: tl.constexpr
):
    """Lengths of the centred columns of a block, from the diagonal of its tile."""
    i = block * BF // BD
    inner = (block * BF % BD + tl.arange(0, BF)) * (BD + 1)
    tile = (i * (i + 1) // 2 + i).to(tl.int64)
    split = tl.arange(0, AT_ONCE)
    at = Part + ((split * tiles + tile) * BD * BD)[:, None] + inner[None, :]
    total = tl.sum(tl.load(at, (split < SPLITS)[:, None], other=0.0), 0) - T * (offset * offset)
    return tl.sqrt(tl.where(total < 0, 0.0, total))


@triton.jit
def _finish(
    Part, Sums, Shift, Out, Mean, Length, T, D, tiles,
    SPLITS: tl.constexpr, AT_ONCE: tl.constexpr, BD: tl.constexpr, BF: tl.constexpr, NORMALISED: tl.constexpr,
):  # fmt: skip
    """A block of the lower half and its mirror image: comoments, or correlations of them.

    What ranges of rows left is loaded without a loop: all of it is on its way before the first sum.
    """
    bi, bj = _tile_of(tl.program_id(0))
    i, j = bi * BF // BD, bj * BF // BD
    col_i, col_j = bi * BF + tl.arange(0, BF), bj * BF + tl.arange(0, BF)
    inner = (bi * BF % BD + tl.arange(0, BF))[:, None] * BD + (bj * BF % BD + tl.arange(0, BF))[None, :]
    tile = (i * (i + 1) // 2 + j).to(tl.int64)
    found = tl.zeros([BF, BF], tl.float32)
    for split in tl.static_range(SPLITS):
        found += tl.load(Part + (split * tiles + tile) * BD * BD + inner)
    offset_i, offset_j = _offset(Sums, col_i, T, D, SPLITS, AT_ONCE), _offset(Sums, col_j, T, D, SPLITS, AT_ONCE)
    found -= T * (offset_i[:, None] * offset_j[None, :])
    if NORMALISED:
        length_i = _length(Part, bi, offset_i, T, tiles, SPLITS, AT_ONCE, BD, BF)
        length_j = _length(Part, bj, offset_j, T, tiles, SPLITS, AT_ONCE, BD, BF)
        inverse_i = tl.where(length_i == 0, 0.0, 1.0 / tl.where(length_i == 0, 1.0, length_i))
        inverse_j = tl.where(length_j == 0, 0.0, 1.0 / tl.where(length_j == 0, 1.0, length_j))
        found = found * inverse_i[:, None] * inverse_j[None, :]
        found = tl.where(found > 1, 1.0, tl.where(found < -1, -1.0, found))  # NaN stays
        itself = (col_i[:, None] == col_j[None, :]) & (found == found)
        found = tl.where(itself, 1.0, found)
        if bi == bj:
            tl.store(Length + col_i, length_i, col_i < D)
    if bi == bj:
        tl.store(Mean + col_i, tl.load(Shift + col_i, col_i < D, other=0.0).to(tl.float32) + offset_i, col_i < D)
    result = found.to(Out.dtype.element_ty)
    row, col = col_i.to(tl.int64), col_j.to(tl.int64)
    tl.store(Out + row[:, None] * D + col[None, :], result, (col[None, :] <= row[:, None]) & (row < D)[:, None])
    mirrored = Out + col[:, None] * D + row[None, :]
    tl.store(mirrored, tl.trans(result), (col[:, None] <= row[None, :]) & (row < D)[None, :])


def correlation(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    out, mean, length = _run(x, normalised=True)
    return out, mean, length


def comoments(x: Tensor) -> tuple[Tensor, Tensor]:
    out, mean, _ = _run(x, normalised=False)
    return mean, out


def _run(x: Tensor, *, normalised: bool) -> tuple[Tensor, Tensor, Tensor]:
    rows, width = x.shape
    plan = _plan(rows, width, x.device)
    require("correlation", workspace_bytes(rows, width, x.device), x.device)
    out = x.new_empty(width, width, dtype=x.dtype if normalised else torch.float32)
    mean, length = x.new_empty(width, dtype=torch.float32), x.new_empty(width, dtype=torch.float32)
    if not width:
        return out, mean, length
    x = x.contiguous()
    part = x.new_empty(plan.splits * plan.tiles * _TILE**2, dtype=torch.float32)
    sums, shift = x.new_empty(plan.splits, width, dtype=torch.float32), x.new_empty(width)
    stride = triton.cdiv(rows, SAMPLED_ROWS)
    sparing = _takes_descriptors(x)
    _shift[(triton.cdiv(width, 8),)](
        x, shift, width, stride, triton.cdiv(rows, stride), SPARING=sparing, BT=SAMPLED_ROWS, BD=8
    )
    programs = (plan.splits * plan.tiles,)
    if sparing:
        described = TensorDescriptor.from_tensor(x, [_PLAIN["BT"], _TILE])
        _plain_products[programs](
            described, shift, part, sums, rows, width, plan.tiles, plan.range_rows, BD=_TILE, **_PLAIN
        )
    _products[programs](
        x, shift, part, sums, rows, width, plan.tiles, plan.range_rows,
        BD=_TILE, WHOLE=plan.whole, SPARING=sparing, **_options(x.dtype, x.device),
    )  # fmt: skip
    blocks = triton.cdiv(width, _FINISHED)
    _finish[(blocks * (blocks + 1) // 2,)](
        part, sums, shift, out, mean, length, rows, width, plan.tiles,
        SPLITS=plan.splits, AT_ONCE=triton.next_power_of_2(plan.splits), BD=_TILE, BF=_FINISHED,
        NORMALISED=normalised, num_warps=8,
    )  # fmt: skip
    return out, mean, length


class _Plan(NamedTuple):
    tiles: int
    splits: int
    range_rows: int
    whole: bool


def workspace_bytes(rows: int, width: int, device: torch.device) -> int:
    """Partial sums of each program, and the result."""
    plan = _plan(rows, width, device)
    return 4 * (plan.splits * plan.tiles * _TILE**2 + (plan.splits + 3) * width + width**2)


@cache
def _plan(rows: int, width: int, device: torch.device) -> _Plan:
    """Into how many ranges rows are cut: so many that programs fill the multiprocessors in whole waves."""
    step, places = 64, _PLACES * _multiprocessors(device)
    blocks = triton.cdiv(width, _TILE)
    tiles = max(1, blocks * (blocks + 1) // 2)
    most = max(1, min(max(places // tiles, _WAVES), rows // _FEWEST_ROWS, _MOST_RANGES))
    best = max(range(1, most + 1), key=lambda splits: splits * tiles / (-(-splits * tiles // places) * places))
    range_rows = triton.cdiv(triton.cdiv(rows, best), step) * step
    return _Plan(tiles, triton.cdiv(rows, range_rows), range_rows, rows % step == 0 and width % _TILE == 0)


@cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2


def _takes_descriptors(x: Tensor) -> bool:
    """Where the copy engine may be given tiles of x: on Hopper and later, rows at multiples of 16 bytes."""
    return (
        x.dtype == torch.bfloat16
        and machine_of(x.device).capability >= (9, 0)
        and x.shape[1] * x.element_size() % 16 == 0
        and x.data_ptr() % 16 == 0
    )


_PLAIN: dict[str, Any] = {"BT": 32, "STAGES": 4, "num_warps": 4}


@cache
def _options(dtype: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Shifted float16 could overflow, and is kept in float32; so is bfloat16, whose bits the interpreter multiplies."""
    if dtype == torch.bfloat16 and device.type == "cuda":
        return {"BT": 64, "WIDE": False, "PRECISION": "tf32", "STAGES": 3, "num_warps": 8}
    precision = "bf16x6" if device.type == "cuda" else "ieee"  # six products of bfloat16 make one of float32
    return {"BT": 64, "WIDE": True, "PRECISION": precision, "STAGES": 2, "num_warps": 8}
