"""Σσ and Σσ ln σ from determinants alone: products of matrices instead of eigenvalues.

For 0 < s < 1,  ∫ ln(1 + λ e^−x) e^sx dx = c(s) λ^s  with  c(s) = π / (s sin πs),  over the whole line. At s = 1/2, and
differentiated there by s (c = 2π, c' = −4π), summed over the eigenvalues λ = σ² of G:

    2π Σσ                   = ∫ L(x) e^(x/2) dx         L(x) = ln det(I + e^−x G) = Σ ln(1 + λ e^−x)
    2π Σσ ln σ² − 4π Σσ     = ∫ L(x) x e^(x/2) dx

The integrand is analytic in |Im x| < π, so equal steps h converge like exp(−2π²/h): see README.md for the figures.
Above the range L falls as tr G e^−x − tr G² e^−2x / 2, below it L is a straight line of x; both tails are summed in
closed form. Each L(x) is a Cholesky factorization: in blocks, for all x and all matrices of the batch at once.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kernels.effective_rank.gram import gram_of
from kernels.effective_rank.log_determinants import by_elimination, log_determinants
from kernels.exporting import exporting

__all__ = ["STEP", "entropy"]

STEP = 2.0
_LOWEST = -32.0
"""x where G has trace one: e^x is 57 times the rounding of float64."""
_HIGHEST = 4.0
_EXPORTED = 128
"""The largest Gram matrix whose elimination is spelled out, in seven nodes a column."""


def entropy(w: Tensor) -> Tensor:
    """(...) the entropy's rank of w (..., m, n), in w's dtype.

    Raises:
        ValueError: the model that it is part of is being exported, and the matrices are too large for that.
    """
    gram = gram_of(w.double())
    total = gram.diagonal(dim1=-2, dim2=-1).sum(-1)
    empty = total == 0
    gram = gram / torch.where(empty, 1.0, total)[..., None, None]
    x = torch.arange(_LOWEST, _HIGHEST + STEP / 2, STEP, dtype=gram.dtype, device=gram.device)
    flat = gram.reshape(-1, *gram.shape[-2:])
    first, second = _integrals(_determinants(flat, x), x, flat)
    sigma = first / (2 * math.pi)
    sigma_log = (second + 4 * math.pi * sigma) / (4 * math.pi)
    rank = (sigma.log() - sigma_log / sigma).exp().reshape(total.shape)
    return torch.where(empty, 0.0, rank).to(w.dtype)


def _determinants(gram: Tensor, x: Tensor) -> Tensor:
    """(points, batch) ln det(I + e^−x G); while a model is exported by elimination, since ONNX knows no Cholesky."""
    n = gram.shape[-1]
    if not exporting():
        return log_determinants(gram, x.exp()) - n * x[:, None]
    if n > _EXPORTED:
        raise ValueError(
            f"an entropy is exported for Gram matrices of at most {_EXPORTED} columns, these have {n}:"
            " export the participation instead"
        )
    return by_elimination(gram, x.exp()) - n * x[:, None]


def _integrals(found: Tensor, x: Tensor, gram: Tensor) -> tuple[Tensor, Tensor]:
    """∫ L e^(x/2) and ∫ L x e^(x/2) by equal steps, with both tails."""
    weight = (STEP * (x / 2).exp())[:, None]
    first, second = (found * weight).sum(0), (found * weight * x[:, None]).sum(0)
    below, above = _line_below(found, x), _series_above(x, gram)
    return first + below[0] + above[0], second + below[1] + above[1]


def _line_below(found: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The steps below x₀, where L goes on as it began: each eigenvalue there is far above e^x, or is zero."""
    slope = (found[1] - found[0]) / STEP
    k = torch.arange(1, 41, dtype=x.dtype, device=x.device)[:, None]
    at = x[0] - STEP * k
    terms = (found[0] - slope * STEP * k) * STEP * (at / 2).exp()
    return terms.sum(0), (terms * at).sum(0)


def _series_above(x: Tensor, gram: Tensor) -> tuple[Tensor, Tensor]:
    """The steps above the last x, from ln(1 + u) = u − u²/2 + u³/3 with u ≤ e^−x."""
    k = torch.arange(1, 41, dtype=x.dtype, device=x.device)[:, None]
    at = x[-1] + STEP * k
    squares = gram.square().sum((-2, -1))
    terms = ((-at).exp() - (-2 * at).exp() * squares / 2) * STEP * (at / 2).exp()
    return terms.sum(0), (terms * at).sum(0)
