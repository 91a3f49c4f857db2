"""Means and comoments of columns in one pass: what correlations are made of, and what pieces of data are merged by.

Comoments are Σ (x_i − m_i)(x_j − m_j) over the rows. Sums of raw products lose every digit where a mean is large beside
its deviation; so each column is first shifted by the mean of a few rows that are spread over the data. Shifting changes
no comoment, and bounds the loss: if the sample holds a share f of the rows, the squared distance of its mean from the
true one is at most (1/f − 1) variances, whatever the data, because that distance is itself a part of the variance.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.memory import require

__all__ = ["comoments", "correlation", "correlation_of", "shift_of", "wide", "workspace_bytes"]

SAMPLED_ROWS = 512
_BLOCK_ELEMENTS = 2**19
"""Of shifted data at a time: they stay in the cache between the shift and the products."""
_PANEL = 256
"""Columns whose products are taken in one call; panels right of the diagonal are left out."""


def wide(dtype: torch.dtype) -> torch.dtype:
    """What sums are kept in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def shift_of(x: Tensor) -> Tensor:
    """(D,) of x's dtype: the mean of at most 512 rows spread over x, and exactly the value of a constant column."""
    sample = x[:: -(-x.shape[0] // SAMPLED_ROWS)]
    mean = sample.to(wide(x.dtype)).mean(0).to(x.dtype)
    return torch.minimum(torch.maximum(mean, sample.amin(0)), sample.amax(0))


def comoments(x: Tensor) -> tuple[Tensor, Tensor]:
    """(D,) means and (D, D) comoments of x (T, D), in float64 for float64, else in float32; symmetric to the bit."""
    rows, width = x.shape
    kept = wide(x.dtype)
    require("correlation", workspace_bytes(rows, width, x.dtype), x.device)
    shift = shift_of(x).to(kept)
    products, sums = x.new_zeros(width, width, dtype=kept), x.new_zeros(width, dtype=kept)
    at_once = _rows_at_once(rows, width)
    for first in range(0, rows, at_once):
        shifted = x[first : first + at_once].to(kept) - shift
        sums += shifted.sum(0)
        for left in range(0, width, _PANEL):
            right = min(left + _PANEL, width)
            products[left:right, :right].addmm_(shifted[:, left:right].T, shifted[:, :right])
    offset = sums / rows
    lower = (products - rows * torch.outer(offset, offset)).tril()
    return shift + offset, lower + lower.tril(-1).T


def correlation(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(D, D) correlations in x's dtype, (D,) means and (D,) lengths of the centred columns in `wide` of it."""
    mean, found = comoments(x)
    r, length = correlation_of(found)
    return r.to(x.dtype), mean, length


def correlation_of(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Correlations of comoments, and (D,) the lengths of the centred columns; zero where a column is constant."""
    length = torch.diagonal(moments).clamp(min=0).sqrt()
    scale = torch.where(length == 0, 0.0, 1 / length)
    lower = (moments * scale[:, None] * scale).clamp(-1, 1).tril()
    r = lower + lower.tril(-1).T
    itself = torch.eye(r.shape[0], dtype=torch.bool, device=r.device)
    return torch.where(itself & ~r.isnan(), 1.0, r), length


def workspace_bytes(rows: int, width: int, dtype: torch.dtype) -> int:
    """What computing correlations takes beside their own memory."""
    return (4 * width * width + 2 * _rows_at_once(rows, width) * width) * wide(dtype).itemsize


def _rows_at_once(rows: int, width: int) -> int:
    return min(rows, max(64, _BLOCK_ELEMENTS // max(width, 1)))
