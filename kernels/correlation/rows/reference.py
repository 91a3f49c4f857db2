"""Correlation as it is defined, in float32 at least, written to be read; and its gradient, likewise."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["row_correlation", "row_correlation_backward"]


def row_correlation(x: Tensor, y: Tensor) -> Tensor:
    return (_unit_rows(x)[0] * _unit_rows(y)[0]).sum(1).to(x.dtype)


def row_correlation_backward(grad: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """With u = dx/|dx|, w = dy/|dy| and r = u·w: dr/dx = (w − r u) / |dx|, which is centred already."""
    (u, norm_x), (w, norm_y) = _unit_rows(x), _unit_rows(y)
    r, grad = (u * w).sum(1, keepdim=True), grad[:, None]
    return (grad * _over(w - r * u, norm_x)).to(x.dtype), (grad * _over(u - r * w, norm_y)).to(y.dtype)


def _unit_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows without their mean, of length one, or all zeros where a row is constant; and the lengths they had."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    constant = x.amax(1, keepdim=True) == x.amin(1, keepdim=True)  # a mean that rounds would leave differences
    centred = torch.where(constant, x - x, x - x.mean(1, keepdim=True))  # of infinities that is NaN
    norm = torch.linalg.vector_norm(centred, dim=1, keepdim=True)
    return _over(centred, norm), norm


def _over(values: Tensor, norm: Tensor) -> Tensor:
    return torch.where(norm == 0, 0.0, values / norm)
