"""The layer in plain torch, some outputs at a time: the weight is never there as floats in whole."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear

from kernels.int4_linear import packing

__all__ = ["block_outputs", "linear_int4", "linear_int4_backward"]

_BLOCK = 2**22
"""Weights that are floats at one time: 16 MB of float32, which stay in the cache of a host between two steps."""


def block_outputs(inputs: int) -> int:
    """Outputs whose weights are floats at one time."""
    return max(_BLOCK // max(inputs, 1), 1)


def linear_int4(x: Tensor, weight: Tensor, scale: Tensor, zero: Tensor | None, bias: Tensor | None) -> Tensor:
    out = x.new_empty(x.shape[0], weight.shape[0])
    for part in _blocks(weight, x.shape[1]):
        w = _floats(weight, scale, zero, part, _works_in(x))
        out[:, part] = linear(x.to(w.dtype), w, None if bias is None else bias[part].to(w.dtype))
    return out


def linear_int4_backward(grad: Tensor, weight: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
    dx = grad.new_zeros(grad.shape[0], 2 * weight.shape[1], dtype=torch.promote_types(grad.dtype, torch.float32))
    for part in _blocks(weight, 2 * weight.shape[1]):
        w = _floats(weight, scale, zero, part, _works_in(grad))
        dx += grad[:, part].to(w.dtype) @ w
    return dx.to(grad.dtype)


def _blocks(weight: Tensor, inputs: int) -> list[slice]:
    step = block_outputs(inputs)
    return [slice(first, first + step) for first in range(0, weight.shape[0], step)]


def _floats(weight: Tensor, scale: Tensor, zero: Tensor | None, part: slice, dtype: torch.dtype) -> Tensor:
    return packing.dequantize(weight[part], scale[part], None if zero is None else zero[part], dtype)


def _works_in(x: Tensor) -> torch.dtype:
    """What weights become: on a GPU what x is, for its matrix unit; on a host float32 at least."""
    return x.dtype if x.is_cuda else torch.promote_types(x.dtype, torch.float32)
