"""The layer in plain torch, some outputs at a time: the weight is never there as floats in whole.

The low nibbles of a row are its weights at even k, the high ones those at odd k: each half is multiplied with its own
half of x, and nothing is woven together.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.int4_linear.packing import MIDDLE

__all__ = ["block_outputs", "linear_int4", "linear_int4_backward"]

_BLOCK = 2**19
"""Weights that are floats at one time: 2 MB of float32, which stay in the cache of a host's core between two steps."""

_GPU_BLOCK = 2**26
"""The same on a GPU, which is kept busy by few large steps."""


def block_outputs(inputs: int, device: torch.device) -> int:
    """Outputs whose weights are floats at one time."""
    return max((_GPU_BLOCK if device.type == "cuda" else _BLOCK) // max(inputs, 1), 1)


def linear_int4(x: Tensor, weight: Tensor, scale: Tensor, zero: Tensor | None, bias: Tensor | None) -> Tensor:
    even, odd = (x[:, first::2].to(_works_in(x)).contiguous() for first in (0, 1))
    out = x.new_empty(x.shape[0], weight.shape[0])
    for part in _blocks(weight):
        low, high = _halves(weight, scale, zero, part, even.dtype)
        sums = torch.addmm(even @ low.T, odd, high.T)
        out[:, part] = sums if bias is None else sums + bias[part].to(sums.dtype)
    return out


def linear_int4_backward(grad: Tensor, weight: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
    even, odd = (grad.new_zeros(grad.shape[0], weight.shape[1], dtype=_wide(grad)) for _ in range(2))
    for part in _blocks(weight):
        low, high = _halves(weight, scale, zero, part, _works_in(grad))
        some = grad[:, part].to(low.dtype)
        even, odd = even + some @ low, odd + some @ high
    return torch.stack((even, odd), dim=2).flatten(1).to(grad.dtype)


def _blocks(weight: Tensor) -> list[slice]:
    step = block_outputs(2 * weight.shape[1], weight.device)
    return [slice(first, first + step) for first in range(0, weight.shape[0], step)]


def _halves(
    weight: Tensor, scale: Tensor, zero: Tensor | None, part: slice, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """The weights of some outputs at even k, and at odd k, (out, in / 2) each."""
    bytes_, scales = weight[part], scale[part].to(dtype)[..., None]
    middle = MIDDLE if zero is None else zero[part].to(torch.int8)[..., None]

    def floats(nibbles: Tensor) -> Tensor:
        steps = nibbles.view(torch.int8).reshape(*scales.shape[:2], bytes_.shape[1] // scales.shape[1]) - middle
        return steps.to(dtype).mul_(scales).reshape(bytes_.shape)

    return floats(bytes_ & 15), floats(bytes_ >> 4)


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _works_in(x: Tensor) -> torch.dtype:
    """What weights become: on a GPU what x is, for its matrix unit; on a host float32 at least."""
    return x.dtype if x.is_cuda else _wide(x)
