"""Effective ranks as they are defined, from singular values; written to be read."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.effective_rank.gram import scale_of

__all__ = ["effective_rank", "rank_of"]


def effective_rank(w: Tensor, kind: str) -> Tensor:
    return rank_of(torch.linalg.svdvals(w / scale_of(w)), kind)  # so that a power of two changes no bit


def rank_of(sigma: Tensor, kind: str) -> Tensor:
    """(...) the effective rank of matrices by their singular values (..., k) in any order; 0 where all are 0."""
    largest = sigma.amax(-1, keepdim=True)
    s = sigma / torch.where(largest == 0, 1.0, largest)  # ranks do not depend on scale; squares could overflow
    zero, square = largest[..., 0] == 0, s.square()
    if kind == "stable":
        return square.sum(-1)
    if kind == "entropy":
        return torch.where(zero, 0.0, _exp_entropy(s))
    return torch.where(zero, 0.0, square.sum(-1).square() / square.square().sum(-1))


def _exp_entropy(s: Tensor) -> Tensor:
    p = s / s.sum(-1, keepdim=True)
    terms = torch.where(p == 0, 0.0, p * torch.where(p == 0, 1.0, p).log())  # where p = 0 the gradient is infinite
    return (-terms.sum(-1)).exp()
