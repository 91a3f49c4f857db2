"""Logarithms of det(G + tI) for many t and many G at once, in a GPU's best operation: products of large batches."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["BYTES_AT_ONCE", "by_elimination", "log_determinants"]

_BLOCK = 64
BYTES_AT_ONCE = 2**31
"""Of shifted copies at a time: all points at once for few matrices, one after the other for many."""


def log_determinants(gram: Tensor, t: Tensor) -> Tensor:
    """(points, batch) ln det(G + tI) of G (batch, n, n), positive semidefinite; NaN where it is not."""
    at_once = max(1, BYTES_AT_ONCE // max(gram.numel() * gram.element_size(), 1))
    return torch.cat([_by_cholesky(gram, t[at : at + at_once]) for at in range(0, len(t), at_once)])


def by_elimination(gram: Tensor, t: Tensor) -> Tensor:
    """The same, a column at a time and in elementary operators alone; needs no pivots where G + tI is definite."""
    a = gram + t[:, None, None, None] * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    found = torch.zeros_like(a[..., 0, 0])
    for _ in range(gram.shape[-1]):
        pivot, column = a[..., :1, :1], a[..., 1:, :1]
        found = found + pivot[..., 0, 0].log()
        a = a[..., 1:, 1:] - column * (column / pivot).mT
    return found


def _by_cholesky(gram: Tensor, t: Tensor) -> Tensor:
    """A block of columns at a time, each less the product of all columns before it."""
    batch, n = gram.shape[:2]
    a = gram.expand(len(t), batch, n, n).clone()
    a.diagonal(dim1=-2, dim2=-1).add_(t[:, None, None])
    a = a.flatten(0, 1)
    found = a.new_zeros(len(a))
    for left in range(0, n, _BLOCK):
        right = min(left + _BLOCK, n)
        if left:
            a[:, left:, left:right].baddbmm_(a[:, left:, :left], a[:, left:right, :left].mT, alpha=-1)
        factor, failed = torch.linalg.cholesky_ex(a[:, left:right, left:right])
        found += torch.where(failed == 0, 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1), torch.nan)
        below = a[:, right:, left:right]
        below.copy_(torch.linalg.solve_triangular(factor.mT, below, upper=True, left=False))
    return found.reshape(len(t), batch)
