"""The layer in int8 by torch's own product of int8, its epilogue behind it: on CPU and older GPUs."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from kernels.activation import activated

__all__ = ["linear_w8a8"]


def linear_w8a8(
    x: Tensor,
    x_scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    activation: str,
    dtype: torch.dtype,
) -> Tensor:
    out = _products(x, weight).to(torch.float32).mul_(x_scale[:, None]).mul_(weight_scale)
    return activated(out if bias is None else out.add_(bias), activation).to(dtype)


def _products(x: Tensor, weight: Tensor) -> Tensor:
    """(rows, out) int32. On CUDA the library takes more than 16 rows, and multiples of 8: what lacks is zeros."""
    rows, n = x.shape
    out = weight.shape[0]
    if not (rows and n and out):
        return x.new_zeros(rows, out, dtype=torch.int32)
    if x.is_cuda:
        x = pad(x, (0, -n % 8, 0, max(17 - rows, 0)))
        weight = pad(weight, (0, -n % 8, 0, -out % 8))
    return torch._int_mm(x, weight.t())[:rows, :out]  # has no public name in torch
