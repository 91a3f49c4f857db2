"""Entropies of density matrices, in nats."""

from __future__ import annotations

from math import inf
from typing import Literal, get_args

import torch
from torch import Tensor

from toolkit.errors import GeometryError, UnknownName
from toolkit.geometry.core.quantum.state_space.checks import require_density

__all__ = ["EntropyKind", "compute_entropy"]

EntropyKind = Literal["von_neumann", "renyi", "linear"]


def compute_entropy(rho: Tensor, kind: EntropyKind = "von_neumann", *, alpha: float = 2.0) -> Tensor:
    """Entropy of `rho` [*B, d, d] -> [*B], in nats; differentiable where eigenvalues are not 0.

    von_neumann   -tr rho ln rho, from 0 (pure) to ln d
    renyi         ln(tr rho^alpha) / (1 - alpha), alpha >= 0 and not 1; alpha = inf is the min-entropy
    linear        1 - tr rho^2

    Eigenvalues that rounding made negative count as 0.

    Raises:
        GeometryError: `rho` is no density matrix, or there is no entropy of this alpha.
        UnknownName: there is no such kind.

    Source: von Neumann 1932; Renyi 1961; Horodecki et al. 2009, section 3.
    """
    require_density(rho)
    if kind not in get_args(EntropyKind):
        raise UnknownName("entropy", kind, get_args(EntropyKind))
    if kind == "linear":
        return 1 - rho.abs().square().sum((-2, -1))
    p = torch.linalg.eigvalsh(rho).clamp(min=0)
    floor = p.shape[-1] * torch.finfo(p.dtype).eps
    held = p > floor  # below it an eigenvalue is rounding, and its logarithm and gradient are noise
    logs = torch.where(held, p, 1.0).log()
    if kind == "von_neumann":
        return -(torch.where(held, p, 0.0) * logs).sum(-1)
    if alpha < 0 or alpha == 1 or alpha != alpha:
        raise GeometryError(f"a Renyi entropy of order {alpha}", hint="orders are >= 0; order 1 is von_neumann")
    if alpha == inf:
        value: Tensor = -p.amax(-1).log()
        return value
    return torch.where(held, alpha * logs, -inf).logsumexp(-1) / (1 - alpha)
