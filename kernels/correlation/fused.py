"""Correlation of rows in Triton: each row is read once, and its moments never leave the registers."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["row_correlation", "row_correlation_backward"]


@triton.jit
def _unit(X, row, N, col, mask, ACC: tl.constexpr):
    """A row without its mean, of length one, all zeros where it is constant; and the length that it had."""
    x = tl.load(X + row * N + col, mask, other=0.0).to(ACC)  # [BLOCK]
    largest, smallest = tl.max(tl.where(mask, x, -float("inf"))), tl.min(tl.where(mask, x, float("inf")))
    mean = tl.sum(x) / N
    dx = tl.where(mask, tl.where(largest == smallest, mean - mean, x - mean), 0.0)  # extremes skip NaN
    norm = tl.sqrt(tl.sum(dx * dx))
    return dx / tl.where(norm == 0, 1.0, norm), norm


@triton.jit
def _forward(X, Y, Out, N, BLOCK: tl.constexpr, ACC: tl.constexpr):
    row, col = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    u, _ = _unit(X, row, N, col, col < N, ACC)
    w, _ = _unit(Y, row, N, col, col < N, ACC)
    tl.store(Out + row, tl.sum(u * w))


@triton.jit
def _backward(Grad, X, Y, DX, DY, N, BLOCK: tl.constexpr, ACC: tl.constexpr):
    row, col = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    mask = col < N
    u, norm_x = _unit(X, row, N, col, mask, ACC)
    w, norm_y = _unit(Y, row, N, col, mask, ACC)
    r, grad = tl.sum(u * w), tl.load(Grad + row).to(ACC)
    dx, dy = grad * (w - r * u) / norm_x, grad * (u - r * w) / norm_y
    tl.store(DX + row * N + col, tl.where(norm_x == 0, 0.0, dx), mask)
    tl.store(DY + row * N + col, tl.where(norm_y == 0, 0.0, dy), mask)


def row_correlation(x: Tensor, y: Tensor) -> Tensor:
    rows, n = x.shape
    out = x.new_empty(rows)
    if rows:
        _forward[(rows,)](x.contiguous(), y.contiguous(), out, n, **_options(n, x.dtype))
    return out


def row_correlation_backward(grad: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    rows, n = x.shape
    x, y = x.contiguous(), y.contiguous()
    dx, dy = torch.empty_like(x), torch.empty_like(y)
    if rows:
        _backward[(rows,)](grad.contiguous(), x, y, dx, dy, n, **_options(n, x.dtype))
    return dx, dy


def _options(n: int, dtype: torch.dtype) -> dict[str, object]:
    block = triton.next_power_of_2(n)
    return {
        "BLOCK": block,
        "ACC": tl.float64 if dtype == torch.float64 else tl.float32,
        "num_warps": min(max(block // 512, 1), 16),
    }
