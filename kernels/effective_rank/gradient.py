"""Gradients of effective ranks: always W M with M a function of the Gram matrix, because dσ/dW = u vᵀ = W v vᵀ / σ.

participation   M = 4 r (I / Σσ² − G / Σσ⁴)
entropy         M = r / N · (E/N − ln √G) / √G on σ > 0, with N = Σσ and E = Σσ ln σ
stable          M = 2 (I − r v₁v₁ᵀ) / σ₁²
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.effective_rank.gram import gram_of, scale_of

__all__ = ["effective_rank_backward"]


def effective_rank_backward(grad: Tensor, w: Tensor, kind: str) -> Tensor:
    """(..., m, n) the gradient of Σ grad · rank, in w's dtype; zero where w is."""
    scale, wide = scale_of(w), w.double()
    m = _by_gram(gram_of(wide)) if kind == "participation" else _by_eigenvectors(gram_of(wide), kind)
    unit = wide / scale
    along = unit @ m if w.shape[-1] <= w.shape[-2] else m @ unit
    return (grad.double()[..., None, None] * along / scale).to(w.dtype)


def _by_gram(gram: Tensor) -> Tensor:
    trace, squares = gram.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None], gram.square().sum((-2, -1), keepdim=True)
    safe = torch.where(trace == 0, 1.0, squares)
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    return 4 * trace * (identity - gram * (trace / safe)) / safe


def _by_eigenvectors(gram: Tensor, kind: str) -> Tensor:
    known = gram.isfinite().all(-1).all(-1)[..., None]
    values, vectors = torch.linalg.eigh(torch.where(known[..., None], gram, 0.0))
    noise = 4 * torch.finfo(values.dtype).eps * values[..., -1:]
    kept = values > noise
    sigma = torch.where(kept, values, 1.0).sqrt()
    slope = torch.where(kept, _of_entropy(sigma, kept) if kind == "entropy" else _of_stable(sigma, kept), 0.0)
    slope = torch.where(known, slope, torch.nan)
    found: Tensor = (vectors * slope[..., None, :]) @ vectors.mT
    return found


def _of_entropy(sigma: Tensor, kept: Tensor) -> Tensor:
    total = torch.where(kept, sigma, 0.0).sum(-1, keepdim=True).clamp(min=torch.finfo(sigma.dtype).tiny)
    mean_log = torch.where(kept, sigma * sigma.log(), 0.0).sum(-1, keepdim=True) / total
    rank = total * (-mean_log).exp()
    return rank * (mean_log - sigma.log()) / (total * sigma)


def _of_stable(sigma: Tensor, kept: Tensor) -> Tensor:
    """Directions that share the largest singular value share its slope."""
    first = sigma[..., -1:]
    ties = (kept & (sigma >= first * (1 - 1e-12))).to(sigma.dtype)
    ties = ties / ties.sum(-1, keepdim=True).clamp(min=1)
    rank = torch.where(kept, sigma, 0.0).square().sum(-1, keepdim=True) / first.square()
    return 2 * (1 - rank * ties) / first.square()
