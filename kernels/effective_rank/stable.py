"""Stable rank ‖W‖_F² / σ₁² without singular values: the largest eigenvalue of G = WᵀW by squaring G again and again.

With k = 2^q and t_p = tr G^p = Σ λ^p, the largest eigenvalue lies between (t_2k / t_k)^(1/k) and t_2k^(1/2k), which
differ by a factor of at most n^(1/2k), because t_k² ≤ n t_2k. Their geometric mean is off by at most ln(n) / 4k; roots
forgive rounding. Each squaring is one product; q follows from n and from the error that is allowed.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kernels.effective_rank.gram import gram_of

__all__ = ["ALLOWED_ERROR", "stable"]

ALLOWED_ERROR = 0.004
"""Of σ₁², relative; a bound, not an expectation."""


def stable(w: Tensor) -> Tensor:
    gram = gram_of(w)
    total = _trace(gram)
    empty = total == 0
    power = gram / torch.where(empty, 1.0, total)[..., None, None]  # G^k / e^log_scale
    log_scale = torch.zeros_like(total)
    squarings = _squarings(gram.shape[-1])
    for _ in range(squarings):
        power = power @ power
        size = _trace(power)
        safe = torch.where(empty, 1.0, size)
        power, log_scale = power / safe[..., None, None], 2 * log_scale + safe.log()
    k = 2**squarings
    log_twice = 2 * log_scale + torch.where(empty, 1.0, power.square().sum((-2, -1))).log()  # of t_2k
    lower, upper = (log_twice - log_scale) / k, log_twice / (2 * k)  # power has trace one, so t_k is its scale
    return torch.where(empty, 0.0, (-(lower + upper) / 2).exp())


def _squarings(n: int) -> int:
    return max(1, math.ceil(math.log2(max(math.log(max(n, 2)), 1) / (4 * ALLOWED_ERROR))))


def _trace(gram: Tensor) -> Tensor:
    return gram.diagonal(dim1=-2, dim2=-1).sum(-1)
