"""Potentials and features kept as one byte each.

A number within ± range is kept as round(127 number / range): off by at most range / 254. With potentials within ± c and
a broadening η, G(v) − G(v') = G(v) (v' − v) G(v') and ‖G‖ <= 1 / η bound what that does to G, and G η is stored alike:

    |Re G − stored|, |Im G − stored| <= c / (254 η²) + 1 / (254 η).

In training nothing else of the chain is kept for the gradient: it is computed again from the bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from toolkit.models.exporting import exporting

__all__ = ["LEVELS", "error_bound", "load", "recomputed", "store", "stored"]

LEVELS = 127


def store(values: Tensor, largest: float) -> Tensor:
    """int8 codes of values within ± `largest`; those outside become its ends."""
    return _code(values, largest).to(torch.int8)


def load(codes: Tensor, largest: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """The numbers of codes."""
    return codes.to(dtype) * (largest / LEVELS)


def stored(values: Tensor, largest: float) -> Tensor:
    """The numbers that are left of `values`; the gradient passes as if they were the same (straight through)."""
    return values + (_code(values, largest) * (largest / LEVELS) - values).detach()


def error_bound(clamp: float, broadening: float) -> float:
    """How far Re G and Im G may be from those of float32 where potentials are within ± clamp."""
    return clamp / (2 * LEVELS * broadening**2) + 1 / (2 * LEVELS * broadening)


def recomputed(run: Callable[..., Tensor], values: Tensor, largest: float, *others: Tensor | None) -> Tensor:
    """`run(values, *others)` of stored values, of which only their codes are kept for the gradient."""
    if exporting() or not torch.is_grad_enabled():
        return run(stored(values, largest), *others)
    found: Tensor = _Recomputed.apply(run, values, largest, *others)  # type: ignore[no-untyped-call]
    return found


def _code(values: Tensor, largest: float) -> Tensor:
    return (values * (LEVELS / largest)).round().clamp(-LEVELS, LEVELS)


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, run: Callable[..., Tensor], values: Tensor, largest: float, *others: Tensor | None) -> Tensor:
        codes = store(values, largest)
        ctx.run, ctx.largest, ctx.dtype = run, largest, values.dtype
        ctx.save_for_backward(codes, *others)
        return run(load(codes, largest, values.dtype), *others)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        codes, *others = ctx.saved_tensors
        given = [load(codes, ctx.largest, ctx.dtype), *others]
        again = [t if t is None else t.detach().requires_grad_() for t in given]
        with torch.enable_grad():
            out = ctx.run(*again)
        wanted = [t for t in again if t is not None]
        grads = iter(torch.autograd.grad(out, wanted, grad))
        of_values, *of_others = [None if t is None else next(grads) for t in again]
        return None, of_values, None, *of_others
