"""Linear layers whose weights have four bits, in groups with a scale each: for serving few rows at a time."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from kernels.exporting import exporting
from kernels.int4_linear import operators, packing, reference

__all__ = ["dequantize_int4", "linear_int4", "pack_int4", "quantize_int4", "unpack_int4"]

_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def pack_int4(values: Tensor) -> Tensor:
    """Two weights a byte: (out, in) of integers 0..15 to uint8 (out, in / 2), the first of a pair in the low half.

    Raises:
        ValueError: there are not two axes, `in` is odd, or a value is not in 0..15.
        TypeError: they are no integers.
    """
    if values.ndim != 2 or values.shape[1] % 2:
        raise ValueError(f"values must be (out, in) with an even in, got {tuple(values.shape)}")
    if values.is_floating_point() or values.is_complex():
        raise TypeError(f"values must be integers, got {values.dtype}")
    if values.numel() and not (int(values.min()) >= 0 and int(values.max()) <= 15):
        raise ValueError(f"four bits hold 0..15, got {int(values.min())}..{int(values.max())}")
    return packing.pack(values.to(torch.uint8))


def unpack_int4(packed: Tensor) -> Tensor:
    """The inverse of `pack_int4`: uint8 (out, in / 2) to uint8 (out, in) of 0..15.

    Raises:
        ValueError: there are not two axes.
        TypeError: they are not uint8.
    """
    _check_packed(packed)
    return packing.unpack(packed)


def quantize_int4(weight: Tensor, *, group: int = 128, zeros: bool = False) -> tuple[Tensor, Tensor, Tensor | None]:
    """A weight in four bits: w ≈ (nibble − zero) · scale, off by at most scale/2.

    Args:
        weight: (out, in) floating point and finite.
        group: Consecutive weights of one output that share a scale; divides `in`, and is even.
        zeros: Fit zero points too, which uses all sixteen values for groups that are mostly of one sign. Without, zero
            is 8 and the scale max|w|/7; with, the scale is (max(w, 0) − min(w, 0))/15.

    Returns:
        uint8 (out, in / 2); float32 (out, in / group); uint8 (out, in / group) with `zeros`, else None.

    Raises:
        ValueError: there are not two axes, or the group does not divide `in`.
        TypeError: the weight is not floating point.

    Source: Frantar et al. 2023, arXiv:2210.17323 (groups); ONNX, DequantizeLinear-21 (blocks of uint4).
    """
    if weight.ndim != 2 or group < 2 or group % 2 or weight.shape[1] % group or not weight.shape[1]:
        raise ValueError(f"weight must be (out, in) with in a multiple of {group}, even, got {tuple(weight.shape)}")
    if not weight.is_floating_point():
        raise TypeError(f"weight must be floating point, got {weight.dtype}")
    return packing.quantize(weight, group, zeros)


def dequantize_int4(
    packed: Tensor, scale: Tensor, zero: Tensor | None = None, *, dtype: torch.dtype = torch.float32
) -> Tensor:
    """The weight (out, in) that a packed one stands for; in float32 it is the one of ONNX's DequantizeLinear, bit for
    bit.

    Raises:
        ValueError: shapes do not match.
        TypeError: the weight or the zero points are not uint8.
    """
    _check_packed(packed)
    _check_groups(packed, scale, zero)
    return packing.dequantize(packed, scale, zero, dtype)


def linear_int4(
    x: Tensor, weight: Tensor, scale: Tensor, zero: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """A linear layer whose weight is read in four bits: x wᵀ + bias with w = (nibble − zero) · scale.

    Sums are in float32. Differentiable once in x and the bias; the weight and what describes it are constants.

    Args:
        x: (..., in) float32, bfloat16 or float16.
        weight: uint8 (out, in / 2), as `quantize_int4` or `pack_int4` makes it.
        scale: (out, groups) floating point; groups divides `in`, in / groups is even.
        zero: uint8 (out, groups) of 0..15; None: 8 everywhere.
        bias: (out,) in the dtype of x.

    Returns:
        (..., out) in the dtype of x; a row that holds NaN or infinity is not finite.

    Raises:
        ValueError: shapes, dtypes or devices do not match.
        TypeError: a dtype is none of these.
        MemoryError: the result, or the weight as floats where a form needs it so, does not fit the device.
        KernelUnavailable: KERNELS_FORM names a form that does not run here.

    Source: Frantar et al. 2023, arXiv:2210.17323; ONNX, DequantizeLinear-21.
    """
    _check(x, weight, scale, zero, bias)
    rows = x.reshape(prod(x.shape[:-1]), x.shape[-1])
    run = reference.linear_int4 if exporting() else operators.linear_int4
    return run(rows, weight, scale, zero, bias).reshape(*x.shape[:-1], weight.shape[0])


def _check(x: Tensor, weight: Tensor, scale: Tensor, zero: Tensor | None, bias: Tensor | None) -> None:
    if weight.ndim != 2 or x.ndim < 1 or x.shape[-1] != 2 * weight.shape[1]:
        raise ValueError(f"x must be (..., in), weight (out, in / 2), got {tuple(x.shape)} and {tuple(weight.shape)}")
    _check_packed(weight)
    if x.dtype not in _FLOATS or not scale.is_floating_point():
        raise TypeError(
            f"x must be float32, bfloat16 or float16 and scale floating point, got {x.dtype}, {scale.dtype}"
        )
    _check_groups(weight, scale, zero)
    outs = weight.shape[0]
    if bias is not None and (bias.shape != (outs,) or bias.dtype != x.dtype):
        raise ValueError(f"bias must be ({outs},) {x.dtype}, got {tuple(bias.shape)} {bias.dtype}")
    if any(t is not None and t.device != x.device for t in (weight, scale, zero, bias)):
        raise ValueError(f"weight, scale, zero and bias must be on {x.device}, where x is")


def _check_packed(weight: Tensor) -> None:
    if weight.dtype != torch.uint8:
        raise TypeError(f"weight and zero must be uint8, as quantize_int4 makes them, got {weight.dtype}")
    if weight.ndim != 2:
        raise ValueError(f"weight must be (out, in / 2), got {tuple(weight.shape)}")


def _check_groups(weight: Tensor, scale: Tensor, zero: Tensor | None) -> None:
    outs, n = weight.shape[0], 2 * weight.shape[1]
    if scale.ndim != 2 or scale.shape[0] != outs or not scale.shape[1] or n % scale.shape[1] or n // scale.shape[1] % 2:
        raise ValueError(f"scale must be ({outs}, groups), groups of even length in {n}, got {tuple(scale.shape)}")
    if zero is not None and zero.dtype != torch.uint8:
        raise TypeError(f"weight and zero must be uint8, as quantize_int4 makes them, got {zero.dtype}")
    if zero is not None and zero.shape != scale.shape:
        raise ValueError(f"zero must be {tuple(scale.shape)}, as scale is, got {tuple(zero.shape)}")
