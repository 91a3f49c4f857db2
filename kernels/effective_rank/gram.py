"""The smaller Gram matrix of a matrix whose largest element is one: its squares neither overflow nor vanish."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["gram_of", "scale_of"]


def gram_of(w: Tensor) -> Tensor:
    """(..., k, k) of w (..., m, n), k = min(m, n): wᵀw or wwᵀ, whichever is smaller, of w over its largest element."""
    w = w / scale_of(w)  # infinity becomes NaN, which goes through
    return w.mT @ w if w.shape[-1] <= w.shape[-2] else w @ w.mT


def scale_of(w: Tensor) -> Tensor:
    """(..., 1, 1) the largest element of w without its sign, or one where all are zero."""
    largest = w.abs().amax((-2, -1), keepdim=True)
    return torch.where(largest == 0, 1.0, largest)
