"""Correlation of rows in Triton: each row is read once, and its moments never leave the registers."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["row_correlation", "row_correlation_backward"]


@triton.jit
def _unit(X, row, rows, N, ROWS: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr):
    """[ROWS, BLOCK] rows without their mean, of length one, all zeros where constant; and the lengths that they had."""
    col = tl.arange(0, BLOCK)
    mask = (row < rows)[:, None] & (col < N)[None, :]
    x = tl.load(X + row[:, None] * N + col[None, :], mask, other=0.0).to(ACC)
    largest = tl.max(tl.where(mask, x, -float("inf")), 1)
    smallest = tl.min(tl.where(mask, x, float("inf")), 1)
    mean = tl.sum(x, 1) / N
    dx = tl.where((largest == smallest)[:, None], (mean - mean)[:, None], x - mean[:, None])  # extremes skip NaN
    dx = tl.where(mask, dx, 0.0)
    norm = tl.sqrt(tl.sum(dx * dx, 1))
    return dx / tl.where(norm == 0, 1.0, norm)[:, None], norm


@triton.jit
def _forward(X, Y, Out, rows, N, ROWS: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    u, _ = _unit(X, row, rows, N, ROWS, BLOCK, ACC)
    w, _ = _unit(Y, row, rows, N, ROWS, BLOCK, ACC)
    tl.store(Out + row, tl.sum(u * w, 1), row < rows)


@triton.jit
def _backward(Grad, X, Y, DX, DY, rows, N, ROWS: tl.constexpr, BLOCK: tl.constexpr, ACC: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    u, norm_x = _unit(X, row, rows, N, ROWS, BLOCK, ACC)
    w, norm_y = _unit(Y, row, rows, N, ROWS, BLOCK, ACC)
    r, grad = tl.sum(u * w, 1)[:, None], tl.load(Grad + row, row < rows, other=0.0).to(ACC)[:, None]
    _store(DX, grad * (w - r * u), norm_x, row, rows, N, BLOCK)
    _store(DY, grad * (u - r * w), norm_y, row, rows, N, BLOCK)


@triton.jit
def _store(To, along, norm, row, rows, N, BLOCK: tl.constexpr):
    """A gradient over its row's length, zero where the row is constant."""
    col = tl.arange(0, BLOCK)
    norm = norm[:, None]
    found = tl.where(norm == 0, 0.0, along / tl.where(norm == 0, 1.0, norm))
    tl.store(To + row[:, None] * N + col[None, :], found, (row < rows)[:, None] & (col < N)[None, :])


def row_correlation(x: Tensor, y: Tensor) -> Tensor:
    rows, n = x.shape
    out = x.new_empty(rows)
    if rows:
        options = _options(n, x.dtype)
        grid = (triton.cdiv(rows, options["ROWS"]),)
        _forward[grid](x.contiguous(), y.contiguous(), out, rows, n, **options)
    return out


def row_correlation_backward(grad: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    rows, n = x.shape
    x, y = x.contiguous(), y.contiguous()
    dx, dy = torch.empty_like(x), torch.empty_like(y)
    if rows:
        options = _options(n, x.dtype)
        grid = (triton.cdiv(rows, options["ROWS"]),)
        _backward[grid](grad.contiguous(), x, y, dx, dy, rows, n, **options)
    return dx, dy


@cache
def _options(n: int, dtype: torch.dtype) -> dict[str, Any]:
    """A program takes as many short rows as make 1024 elements: of one row of 64 it would mostly wait."""
    block = triton.next_power_of_2(n)
    rows = max(1, 1024 // block)
    double = dtype == torch.float64
    return {
        "ROWS": rows,
        "BLOCK": block,
        "ACC": tl.float64 if double else tl.float32,
        "num_warps": min(max(rows * block // 512, 1), 16 if double else 8),
    }
