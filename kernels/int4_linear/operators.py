"""The layer with weights of four bits as an operator of torch: torch.compile keeps it whole, autograd knows dx."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.dispatch import Call, Form, Operator, needs_triton
from kernels.eager import custom_op
from kernels.int4_linear import cuda
from kernels.int4_linear.in_blocks import block_outputs, linear_int4_backward
from kernels.machine import machine_of
from kernels.memory import require

__all__ = ["LINEAR", "layer_call", "linear_int4", "workspace_bytes"]

MOST_ROWS = 64
"""For more, weights as floats and torch's own product are faster: each weight then serves many rows."""


def _no_few_rows(call: Call) -> str | None:
    if call.machine.kind == "cuda" and call.machine.capability < (8, 0):
        return f"Triton's products need compute capability 8.0, {call.machine} has less"
    if call.dtype not in (torch.bfloat16, torch.float16):
        return "it computes in bfloat16 or float16"
    if call.sizes["rows"] > MOST_ROWS:
        return f"more than {MOST_ROWS} rows are faster with the weight as floats"
    if call.sizes["group"] % 128:  # of 64, with zeros, Triton 3.6 gives wrong sums on a Hopper GPU
        return "groups are no multiples of 128"
    return needs_triton(call)


LINEAR = Operator[Tensor](
    "linear_int4",
    (
        Form("cuda", "kernels.int4_linear.cuda:linear_int4", cuda.refusal),
        Form("triton", "kernels.int4_linear.fused:linear_int4", _no_few_rows),
        Form("torch", "kernels.int4_linear.in_blocks:linear_int4"),
    ),
)


def layer_call(x: Tensor, weight: Tensor, scale: Tensor, *_: object) -> Call:
    inputs = 2 * weight.shape[1]
    rows = x.numel() // max(inputs, 1)
    sizes = {"rows": rows, "in": inputs, "out": weight.shape[0], "group": inputs // max(scale.shape[1], 1)}
    return Call(machine_of(x.device), x.dtype, sizes)


def workspace_bytes(x: Tensor, outs: int) -> int:
    """The most that a form allocates beside its inputs: the result, and a block of the weight as floats."""
    (rows, inputs), block = x.shape, min(outs, block_outputs(x.shape[1], x.device))
    return rows * outs * x.element_size() + 8 * inputs * (block + rows)


@custom_op("kernels::linear_int4", mutates_args=())
def linear_int4(x: Tensor, weight: Tensor, scale: Tensor, zero: Tensor | None, bias: Tensor | None) -> Tensor:
    require("linear_int4", workspace_bytes(x, weight.shape[0]), x.device)
    return LINEAR.run(layer_call(x, weight, scale), x, weight, scale, zero, bias)


@linear_int4.register_fake
def _(x: Tensor, weight: Tensor, scale: Tensor, zero: Tensor | None, bias: Tensor | None) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[0])


@custom_op("kernels::linear_int4_backward", mutates_args=())
def _backward(grad: Tensor, weight: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
    return linear_int4_backward(grad, weight, scale, zero)


@_backward.register_fake
def _(grad: Tensor, weight: Tensor, scale: Tensor, zero: Tensor | None) -> Tensor:
    return grad.new_empty(grad.shape[0], 2 * weight.shape[1])


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:4])


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, None, Tensor | None]:
    dx = _backward(grad, *ctx.saved_tensors) if ctx.needs_input_grad[0] else None
    return dx, None, None, None, grad.sum(0) if ctx.needs_input_grad[4] else None


linear_int4.register_autograd(_gradients, setup_context=_save)
