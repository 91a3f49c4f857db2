"""Linear layers in int8, for serving: weights scaled by output, inputs by row, sums in int32."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from kernels.activation import check_activation
from kernels.exporting import exporting
from kernels.int8_linear import operators, reference

__all__ = ["linear_w8a8", "quantize_rows"]

_FLOATS = (torch.float32, torch.bfloat16, torch.float16)
_LONGEST_SUM = 2**31 // 128**2 - 1
"""As many products of two int8 fit int32, whatever they are."""


def quantize_rows(x: Tensor, scale: Tensor | float | None = None) -> tuple[Tensor, Tensor]:
    """Rows as int8 with a scale each: x ≈ q · scale, off by at most scale/2 where nothing was clipped.

    Args:
        x: (rows, n) float32, bfloat16 or float16.
        scale: One positive number for all rows, found by calibration; what lies beyond ±127.5 of it is clipped. None:
            each row its own, max|x|/127, which clips nothing.

    Returns:
        int8 (rows, n), rounded half to even; float32 (rows,), NaN for a row that holds NaN, or infinity without a given
        scale: int8 cannot say so itself. A row of zeros has scale 0.

    Raises:
        ValueError: x has other than two axes, or `scale` is more than one number, or a number that is not positive.
        TypeError: x has another dtype.
        KernelUnavailable: KERNELS_FORM names a form that does not run here.

    Source: Jacob et al. 2018, arXiv:1712.05877 (without zero points).
    """
    if x.ndim != 2:
        raise ValueError(f"x must be (rows, n), got {tuple(x.shape)}")
    if x.dtype not in _FLOATS:
        raise TypeError(f"x must be float32, bfloat16 or float16, got {x.dtype}")
    given = _one_number(scale, x.device)
    return reference.quantize_rows(x, given) if exporting() else operators.quantize_rows(x, given)


def linear_w8a8(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    x_scale: Tensor | float | None = None,
    bias: Tensor | None = None,
    *,
    activation: str | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """A linear layer whose products are of int8: activation(x_q weightᵀ · x_scale · weight_scale + bias).

    Sums are exact in int32; scales, bias and activation are applied in float32 before the result is rounded once to its
    dtype. It has no gradient.

    Args:
        x: (..., in) float32, bfloat16 or float16, quantized on the way as by `quantize_rows`; or int8.
        weight: (out, in) int8, in <= 131,071; `quantize_rows(w)` gives it with its scales.
        weight_scale: (out,) float32.
        x_scale: One number; or (rows,) for int8 with a scale a row, rows being the leading axes of x together. None:
            float x is scaled row by row by what it holds; int8 x needs it.
        bias: (out,) floating point.
        activation: None, "relu", "gelu" (with erf) or "silu".
        dtype: Of the result: float32, bfloat16 or float16; None: that of x, float32 for int8.

    Returns:
        (..., out). A row of float x that holds NaN (or infinity, where scaled by itself) is NaN.

    Raises:
        ValueError: shapes or devices do not match, int8 x comes without scale, a number as scale is not positive, the
            activation is unknown.
        TypeError: a dtype is none of these.
        MemoryError: the result, or x in int8, does not fit the device.
        KernelUnavailable: KERNELS_FORM names a form that does not run here.
        RuntimeError: a gradient is asked for.

    Source: Dettmers et al. 2022, arXiv:2208.07339 (scales by row and by column of the product).
    """
    _check(x, weight, weight_scale, bias)
    name, dtype = check_activation(activation), _result_dtype(x, dtype)
    rows = x.reshape(prod(x.shape[:-1]), x.shape[-1])
    if x.dtype == torch.int8:
        scale = _scales(x_scale, rows)
    else:
        rows, scale = quantize_rows(rows, x_scale)
    run = reference.linear_w8a8 if exporting() else operators.linear_w8a8
    return run(rows, scale, weight, weight_scale, bias, name, dtype).reshape(*x.shape[:-1], weight.shape[0])


def _check(x: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None) -> None:
    if weight.ndim != 2 or x.ndim < 1 or x.shape[-1] != weight.shape[1]:
        raise ValueError(f"x must be (..., in) and weight (out, in), got {tuple(x.shape)} and {tuple(weight.shape)}")
    if x.shape[-1] > _LONGEST_SUM:
        raise ValueError(f"in is {x.shape[-1]}: int32 holds the sum of {_LONGEST_SUM} products of int8")
    out = (weight.shape[0],)
    if weight_scale.shape != out or (bias is not None and bias.shape != out):
        given = tuple(weight_scale.shape), None if bias is None else tuple(bias.shape)
        raise ValueError(f"weight_scale and bias must be {out}, got {given[0]} and {given[1]}")
    if x.dtype not in (*_FLOATS, torch.int8) or weight.dtype != torch.int8:
        raise TypeError(f"x must be floating point or int8 and weight int8, got {x.dtype} and {weight.dtype}")
    if weight_scale.dtype != torch.float32 or not (bias is None or bias.is_floating_point()):
        raise TypeError("weight_scale must be float32, and bias floating point")
    if any(t is not None and t.device != x.device for t in (weight, weight_scale, bias)):
        raise ValueError(f"weight, weight_scale and bias must be on {x.device}, where x is")


def _result_dtype(x: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    found = dtype or (torch.float32 if x.dtype == torch.int8 else x.dtype)
    if found not in _FLOATS:
        raise TypeError(f"the result can be float32, bfloat16 or float16, not {found}")
    return found


def _scales(scale: Tensor | float | None, rows: Tensor) -> Tensor:
    """One scale for each row of int8."""
    if scale is None:
        raise ValueError("x is int8 and has no x_scale: give the scale it was quantized with")
    if isinstance(scale, Tensor) and scale.shape == rows.shape[:1]:
        if scale.device != rows.device:
            raise ValueError(f"x_scale must be on {rows.device}, where x is")
        return scale.to(torch.float32)
    one = _one_number(scale, rows.device)
    assert one is not None
    return one.expand(rows.shape[0])


def _one_number(scale: Tensor | float | None, device: torch.device) -> Tensor | None:
    if scale is None:
        return None
    if not isinstance(scale, Tensor):
        if not 0 < scale < float("inf"):
            raise ValueError(f"the scale of x must be positive and finite, got {scale}")
        return torch.tensor([scale], dtype=torch.float32, device=device)
    if scale.numel() != 1:
        raise ValueError(f"the scale of x must be one number or one for each row, got {tuple(scale.shape)}")
    return scale.reshape(1).to(device, torch.float32)
