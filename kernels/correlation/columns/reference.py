"""Correlation between columns as it is defined, written to be read; and its gradient, likewise."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["correlation", "correlation_backward"]


def correlation(x: Tensor) -> Tensor:
    unit, _ = _unit_columns(x)
    r = (unit.T @ unit).clamp(-1, 1)
    r = r.tril() + r.tril(-1).T  # a product need not be symmetric to the bit
    itself = torch.eye(x.shape[1], dtype=torch.bool, device=x.device)
    return torch.where(itself & ~r.isnan(), 1.0, r)


def correlation_backward(grad: Tensor, x: Tensor) -> Tensor:
    """With u = dx/|dx| and r = uᵀu: dL/du = u (G + Gᵀ), less its part along u, over |dx|; it is centred already.

    The diagonal of r is a constant; what G holds there falls out with the part along u.
    """
    unit, length = _unit_columns(x)
    along = unit @ (grad + grad.T)
    return _over(along - unit * (along * unit).sum(0), length)


def _unit_columns(x: Tensor) -> tuple[Tensor, Tensor]:
    """Columns without their mean, of length one, or all zeros where a column is constant; and the lengths they had."""
    constant = x.amax(0) == x.amin(0)  # a mean that rounds would leave differences
    centred = torch.where(constant, x - x, x - x.mean(0))  # of infinities that is NaN
    length = torch.linalg.vector_norm(centred, dim=0)
    return _over(centred, length), length


def _over(values: Tensor, length: Tensor) -> Tensor:
    return torch.where(length == 0, 0.0, values / length)
