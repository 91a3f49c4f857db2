"""The layer with weights of four bits as it is defined, written to be read; and its gradient, likewise."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

from kernels.int4_linear import packing

__all__ = ["linear_int4", "linear_int4_backward"]


def linear_int4(x: Tensor, weight: Tensor, scale: Tensor, zero: Tensor | None, bias: Tensor | None) -> Tensor:
    wide = torch.promote_types(x.dtype, torch.float32)
    w = packing.dequantize(weight, scale, zero, wide)
    return linear(x.to(wide), w, None if bias is None else bias.to(wide)).to(x.dtype)


def linear_int4_backward(grad: Tensor, weight: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
    """With respect to x: grad w."""
    wide = torch.promote_types(grad.dtype, torch.float32)
    return (grad.to(wide) @ packing.dequantize(weight, scale, zero, wide)).to(grad.dtype)
