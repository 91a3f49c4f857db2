"""Linear layers in int8 as operators of torch: torch.compile keeps them whole; they have no gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.dispatch import Call, Form, Operator, needs_triton
from kernels.eager import custom_op
from kernels.machine import machine_of
from kernels.memory import require

__all__ = ["LINEAR", "QUANTIZE", "layer_call", "linear_w8a8", "quantize_rows", "rows_call", "workspace_bytes"]


def _needs_ampere(call: Call) -> str | None:
    """Triton multiplies matrices on what Ampere introduced."""
    if call.machine.kind == "cuda" and call.machine.capability < (8, 0):
        return f"Triton's products of int8 need compute capability 8.0, {call.machine} has less"
    return needs_triton(call)


QUANTIZE = Operator[tuple[Tensor, Tensor]](
    "quantize_rows",
    (
        Form("triton", "kernels.int8_linear.fused:quantize_rows", needs_triton),
        Form("torch", "kernels.int8_linear.reference:quantize_rows"),
    ),
)
LINEAR = Operator[Tensor](
    "linear_w8a8",
    (
        Form("triton", "kernels.int8_linear.fused:linear_w8a8", _needs_ampere),
        Form("torch", "kernels.int8_linear.stacked:linear_w8a8"),
    ),
)


def rows_call(x: Tensor, scale: Tensor | float | None = None) -> Call:
    return Call(machine_of(x.device), x.dtype, {"rows": x.shape[0], "n": x.shape[1]})


def layer_call(x: Tensor, weight: Tensor, *_: object, **__: object) -> Call:
    rows = x.numel() // max(x.shape[-1], 1)
    return Call(machine_of(x.device), torch.int8, {"rows": rows, "in": weight.shape[1], "out": weight.shape[0]})


def workspace_bytes(rows: int, out: int, dtype: torch.dtype) -> int:
    """What the layer allocates beside its inputs: the result."""
    return rows * out * dtype.itemsize


@custom_op("kernels::quantize_rows", mutates_args=())
def quantize_rows(x: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
    require("quantize_rows", x.numel() + 4 * x.shape[0], x.device)
    return QUANTIZE.run(rows_call(x), x, scale)


@quantize_rows.register_fake
def _(x: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape, dtype=torch.int8), x.new_empty(x.shape[0], dtype=torch.float32)


@custom_op("kernels::linear_w8a8", mutates_args=())
def linear_w8a8(
    x: Tensor,
    x_scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    activation: str,
    dtype: torch.dtype,
) -> Tensor:
    require("linear_w8a8", workspace_bytes(x.shape[0], weight.shape[0], dtype), x.device)
    call = layer_call(x, weight)
    return LINEAR.run(call, x, x_scale, weight, weight_scale, bias, activation, dtype)


@linear_w8a8.register_fake
def _(
    x: Tensor,
    x_scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    activation: str,
    dtype: torch.dtype,
) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0], dtype=dtype)
