"""Effective ranks from the eigenvalues of the smaller Gram matrix, formed in float64 so that squaring costs no digit.

Squared singular values are found to about 1e-16 of the largest, so singular values below 1e-8 of the largest are lost:
n of them would hold 1e-8 n of the sum, which moves an entropy by 2e-7 n. In float32 the same would be 3e-4 and 5e-3 n.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.effective_rank.gram import gram_of
from kernels.effective_rank.reference import rank_of

__all__ = ["effective_rank"]


def effective_rank(w: Tensor, kind: str) -> Tensor:
    gram = gram_of(w.double())
    known = gram.isfinite().all(-1).all(-1)
    eigenvalues = torch.linalg.eigvalsh(torch.where(known[..., None, None], gram, 0.0))
    noise = 4 * torch.finfo(eigenvalues.dtype).eps * eigenvalues[..., -1:]
    sigma = torch.where(eigenvalues > noise, eigenvalues, 0.0).sqrt()
    return torch.where(known, rank_of(sigma, kind), torch.nan).to(w.dtype)
