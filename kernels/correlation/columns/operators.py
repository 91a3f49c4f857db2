"""Correlation between columns as operators of torch: torch.compile keeps them whole, autograd knows their gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.correlation.columns import moments
from kernels.dispatch import Call, Form, Operator, needs_triton
from kernels.eager import custom_op
from kernels.machine import machine_of

__all__ = ["COLUMNS", "COMOMENTS", "columns_call", "comoments", "correlation", "workspace_bytes"]

MOST_ROWS = 2**30
"""What Triton's programs count in 32 bits."""


def _beyond_triton(call: Call) -> str | None:
    if call.dtype == torch.float64:
        return "Triton multiplies in six products of bfloat16, which float64 is finer than"
    if call.machine.kind == "cuda" and call.machine.capability < (8, 0):
        return f"products of bfloat16 need compute capability 8.0, {call.machine} has less"
    if call.sizes["T"] > MOST_ROWS:
        return f"more than {MOST_ROWS} rows are not counted in 32 bits"
    return needs_triton(call)


COLUMNS = Operator[tuple[Tensor, Tensor, Tensor]](
    "correlation",
    (
        Form("triton", "kernels.correlation.columns.fused:correlation", _beyond_triton),
        Form("torch", "kernels.correlation.columns.moments:correlation"),
    ),
)
COMOMENTS = Operator[tuple[Tensor, Tensor]](
    "correlation",
    (
        Form("triton", "kernels.correlation.columns.fused:comoments", _beyond_triton),
        Form("torch", "kernels.correlation.columns.moments:comoments"),
    ),
)


def columns_call(x: Tensor) -> Call:
    return Call(machine_of(x.device), x.dtype, {"T": x.shape[0], "D": x.shape[1]})


def workspace_bytes(x: Tensor) -> int:
    """What correlating the columns of x takes beside x, in the form that would run."""
    rows, width = x.shape
    if COLUMNS.choose(columns_call(x)).form.name == "triton":
        from kernels.correlation.columns import fused

        return fused.workspace_bytes(rows, width, x.device)
    return moments.workspace_bytes(rows, width, x.dtype)


@custom_op("kernels::correlation", mutates_args=())
def correlation(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Correlations; means and lengths of the centred columns, for the gradient."""
    return COLUMNS.run(columns_call(x), x)


@correlation.register_fake
def _(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    width, kept = x.shape[1], moments.wide(x.dtype)
    return x.new_empty(width, width), x.new_empty(width, dtype=kept), x.new_empty(width, dtype=kept)


def comoments(x: Tensor) -> tuple[Tensor, Tensor]:
    """(D,) means and (D, D) comoments of x (T, D), in float32 or float64; no gradient."""
    return COMOMENTS.run(columns_call(x), x.detach())


@custom_op("kernels::correlation_backward", mutates_args=())
def _backward(grad: Tensor, x: Tensor, r: Tensor, mean: Tensor, length: Tensor) -> Tensor:
    """dx = u (A − diag(q)) / |dx| with u = (x − mean) / |dx|, A = G + Gᵀ and q the column sums of A r: one product.

    Both divisions go into the small factor, and so does what rounding leaves of the mean.
    """
    inverse = torch.where(length == 0, 0.0, 1 / length)
    both = (grad + grad.T).to(length.dtype)
    mixed = (both - torch.diag((both * r).sum(0))) * inverse[:, None] * inverse
    rows = x.float() if x.dtype == torch.float16 else x  # where the small factor could be too small
    near = mean.to(rows.dtype)
    left = ((near - mean) @ mixed).to(rows.dtype)
    return torch.addmm(left, rows - near, mixed.to(rows.dtype)).to(x.dtype)


@_backward.register_fake
def _(grad: Tensor, x: Tensor, r: Tensor, mean: Tensor, length: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _save(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output)
    ctx.mark_non_differentiable(*output[1:])


def _gradients(ctx: Any, grad: Tensor, *of_nothing: Tensor) -> Tensor:
    return _backward(grad, *ctx.saved_tensors)


correlation.register_autograd(_gradients, setup_context=_save)
