"""Quantization by row and the layer in int8 as they are defined, written to be read."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.activation import activated

__all__ = ["linear_w8a8", "quantize_rows"]


def quantize_rows(x: Tensor, scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`scale` is (1,), or None for each row's own."""
    x = x.to(torch.float32)
    largest = _largest(x)
    if scale is None:
        scales = torch.where(largest < float("inf"), largest / _steps(x), float("nan"))
    else:
        scales = torch.where(largest.isnan(), float("nan"), scale)
    q = torch.where(scales[:, None] > 0, x / scales[:, None], 0.0)
    return q.round_().clamp_(-128, 127).to(torch.int8), scales


def linear_w8a8(
    x: Tensor,
    x_scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    activation: str,
    dtype: torch.dtype,
) -> Tensor:
    """Float sums of int8 are exact below 2**24 (float32) and always in float64, which `dtype` may ask for."""
    wide = torch.promote_types(dtype, torch.float32)
    sums = x.to(wide) @ weight.to(wide).T
    out = sums * x_scale.to(wide)[:, None] * weight_scale.to(wide)
    return activated(out if bias is None else out + bias.to(wide), activation).to(dtype)


def _steps(x: Tensor) -> Tensor:
    """127 as a tensor: by a number, CUDA multiplies with a rounded inverse instead of dividing."""
    return x.new_tensor(127.0)


def _largest(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x, float("inf"), dim=1) if x.shape[1] else x.new_zeros(x.shape[0])
