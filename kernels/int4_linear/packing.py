"""Weights of four bits, a scale for each group along K: found, packed two to a byte, unpacked, and what they stand for.

Nibbles are unsigned and the first of a pair is the low one: the bytes of an ONNX UINT4 tensor, and of the weight of
onnxruntime's MatMulNBits.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["MIDDLE", "dequantize", "pack", "quantize", "unpack"]

MIDDLE = 8
"""What stands for zero where no zero points are given."""


def pack(values: Tensor) -> Tensor:
    """(out, in) of 0..15 to uint8 (out, in / 2)."""
    return values[:, 0::2] | (values[:, 1::2] << 4)


def unpack(packed: Tensor) -> Tensor:
    """The inverse of `pack`: uint8 (out, in)."""
    return torch.stack((packed & 15, packed >> 4), dim=-1).flatten(1)


def quantize(weight: Tensor, group: int, zeros: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    """Packed weights, scales, and zero points if asked for."""
    parts = weight.to(torch.float32).reshape(weight.shape[0], -1, group)
    scale, zero = _with_zeros(parts) if zeros else _symmetric(parts)
    steps = torch.where(scale[..., None] > 0, parts / scale[..., None], 0.0)
    values = torch.clamp(torch.round(steps) + zero[..., None], 0, 15).to(torch.uint8)
    return pack(values.flatten(1)), scale, zero.to(torch.uint8) if zeros else None


def dequantize(packed: Tensor, scale: Tensor, zero: Tensor | None, dtype: torch.dtype) -> Tensor:
    """(out, in): (nibble − zero) · scale, as ONNX's DequantizeLinear with blocks computes it."""
    parts = unpack(packed).reshape(*scale.shape, 2 * packed.shape[1] // scale.shape[1]).to(dtype)
    middle = MIDDLE if zero is None else zero.to(dtype)[..., None]
    return ((parts - middle) * scale.to(dtype)[..., None]).flatten(1)


def _symmetric(parts: Tensor) -> tuple[Tensor, Tensor]:
    scale = parts.abs().amax(2) / parts.new_tensor(7.0)
    return scale, torch.full_like(scale, MIDDLE)


def _with_zeros(parts: Tensor) -> tuple[Tensor, Tensor]:
    low, high = parts.amin(2).clamp(max=0), parts.amax(2).clamp(min=0)  # zero itself is among the values
    scale = (high - low) / parts.new_tensor(15.0)
    return scale, torch.round(torch.where(scale > 0, -low / scale, 0.0)).clamp(0, 15)
