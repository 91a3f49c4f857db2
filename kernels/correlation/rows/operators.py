"""Correlation between rows as an operator of torch: torch.compile keeps it whole, autograd knows its gradient."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kernels.dispatch import Call, Form, Operator, needs_triton
from kernels.eager import custom_op
from kernels.machine import machine_of

__all__ = ["ROWS", "ROWS_BACKWARD", "row_call", "row_correlation"]

LONGEST_ROW = 16_384
"""What one Triton program keeps in its registers."""
MOST_ROWS = 2**31 - 1


def _too_long_for_triton(call: Call) -> str | None:
    if call.sizes["n"] > LONGEST_ROW:
        return f"rows of more than {LONGEST_ROW} do not fit the registers of a program"
    if call.sizes["rows"] > MOST_ROWS:
        return f"more than {MOST_ROWS} rows are more programs than CUDA launches"
    return needs_triton(call)


ROWS = Operator[Tensor](
    "row_correlation",
    (
        Form("triton", "kernels.correlation.rows.fused:row_correlation", _too_long_for_triton),
        Form("torch", "kernels.correlation.rows.reference:row_correlation"),
    ),
)
ROWS_BACKWARD = Operator[tuple[Tensor, Tensor]](
    "row_correlation",
    (
        Form("triton", "kernels.correlation.rows.fused:row_correlation_backward", _too_long_for_triton),
        Form("torch", "kernels.correlation.rows.reference:row_correlation_backward"),
    ),
)


def row_call(x: Tensor, y: Tensor) -> Call:
    return Call(machine_of(x.device), x.dtype, {"rows": x.shape[0], "n": x.shape[1]})


@custom_op("kernels::row_correlation", mutates_args=())
def row_correlation(x: Tensor, y: Tensor) -> Tensor:
    return ROWS.run(row_call(x, y), x, y)


@row_correlation.register_fake
def _(x: Tensor, y: Tensor) -> Tensor:
    return x.new_empty(x.shape[0])


@custom_op("kernels::row_correlation_backward", mutates_args=())
def _backward(grad: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return ROWS_BACKWARD.run(row_call(x, y), grad, x, y)


@_backward.register_fake
def _(grad: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), y.new_empty(y.shape)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
    return _backward(grad, *ctx.saved_tensors)


row_correlation.register_autograd(_gradients, setup_context=_save)
