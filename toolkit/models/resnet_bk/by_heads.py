"""The one-sided resolvent of many heads side by side: in Triton on GPUs that have it, else head after head in torch."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from toolkit.models.resnet_bk.one_sided import one_sided

__all__ = ["one_sided_by_heads", "with_triton"]

_CAPABILITY = (7, 0)


def one_sided_by_heads(u: Tensor, w: Tensor) -> Tensor:
    """ρ of each site and head, differentiable once.

    Args:
        u: (B, N, heads) float32 or float64.
        w: Same shape, which may be an expanded one: the link to each site from the one before it, >= 0.

    Returns:
        (B, N, heads, 2).
    """
    if u.is_cuda and u.numel() and _has_triton(u.device):
        return with_triton(u, w)
    found = one_sided(*(t.transpose(1, 2).reshape(-1, t.shape[1]) for t in (u, w)))
    return found.view(u.shape[0], u.shape[2], u.shape[1], 2).transpose(1, 2)


def with_triton(u: Tensor, w: Tensor) -> Tensor:
    """The same by Triton's kernels, or their interpreter."""
    found: Tensor = _WithTriton.apply(u, w)  # type: ignore[no-untyped-call]
    return found


@cache
def _has_triton(device: torch.device) -> bool:
    return find_spec("triton") is not None and torch.cuda.get_device_capability(device) >= _CAPABILITY


class _WithTriton(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, w: Tensor) -> Tensor:
        from toolkit.models.resnet_bk import fused

        rho = fused.resolvent(u, w)
        ctx.save_for_backward(w, rho)
        return rho

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        from toolkit.models.resnet_bk import fused

        w, rho = ctx.saved_tensors
        return fused.gradients(grad, w, rho, of_w=ctx.needs_input_grad[1])
