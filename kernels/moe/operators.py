"""Experts as an operator of torch: torch.compile keeps it whole, autograd knows its gradients.

A schema of torch has no structures, so the parts of `Layers` stand one by one in the signatures here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.dispatch import Call, Form, Operator, needs_triton
from kernels.eager import custom_op
from kernels.machine import machine_of
from kernels.memory import require
from kernels.moe.layers import Layers

__all__ = ["EXPERTS", "EXPERTS_BACKWARD", "ROWS", "experts", "experts_call", "workspace_bytes"]

ROWS = 128
"""In Triton, the rows of an expert begin at a multiple of this."""

MOST_EXPERTS = 256
"""What one Triton program counts in its registers."""


def _no_groups(call: Call) -> str | None:
    if call.dtype not in (torch.bfloat16, torch.float16):
        return "its products by group are of bfloat16 or float16"
    if call.machine.kind == "cuda" and call.machine.capability < (8, 0):
        return f"Triton's products need compute capability 8.0, {call.machine} has less"
    if call.sizes["d"] % 8 or call.sizes["hidden"] % 8:
        return "d and hidden must be multiples of 8: rows are moved by 16 bytes"
    if call.sizes["experts"] > MOST_EXPERTS or call.sizes["tokens"] * call.sizes["k"] >= 2**30:
        return f"it counts up to {MOST_EXPERTS} experts and 2**30 choices"
    return needs_triton(call)


EXPERTS = Operator[list[Tensor]](
    "moe",
    (
        Form("triton", "kernels.moe.fused:experts", _no_groups),
        Form("torch", "kernels.moe.by_expert:experts"),
    ),
)
EXPERTS_BACKWARD = Operator[list[Tensor]](
    "moe",
    (
        Form("triton", "kernels.moe.fused:experts_backward", _no_groups),
        Form("torch", "kernels.moe.by_expert:experts_backward"),
    ),
)


def experts_call(x: Tensor, chosen: Tensor, gates: Tensor, w_in: Tensor, *_: object, **__: object) -> Call:
    tokens, k = chosen.shape
    sizes = {"tokens": tokens, "d": x.shape[1], "hidden": w_in.shape[1], "experts": w_in.shape[0], "k": k}
    return Call(machine_of(x.device), x.dtype, sizes)


def workspace_bytes(call: Call) -> int:
    """What the forward pass allocates: rows by expert of x, of the result, and of what is between, twice."""
    sizes = call.sizes
    rows = sizes["tokens"] * sizes["k"] + sizes["experts"] * ROWS
    return call.dtype.itemsize * (2 * rows * (sizes["d"] + sizes["hidden"]) + sizes["tokens"] * sizes["d"])


@custom_op("kernels::experts", mutates_args=())
def experts(
    x: Tensor, chosen: Tensor, gates: Tensor, w_in: Tensor, b_in: Tensor | None, w_out: Tensor, b_out: Tensor | None,
    activation: str, keep: bool,
) -> list[Tensor]:  # fmt: skip
    """The result; with `keep`, then what the form's gradients need."""
    call = experts_call(x, chosen, gates, w_in)
    require("moe", workspace_bytes(call), x.device)
    return EXPERTS.run(call, x, chosen, gates, Layers(w_in, b_in, w_out, b_out, activation), keep)


@experts.register_fake
def _(
    x: Tensor, chosen: Tensor, gates: Tensor, w_in: Tensor, b_in: Tensor | None, w_out: Tensor, b_out: Tensor | None,
    activation: str, keep: bool,
) -> list[Tensor]:  # fmt: skip
    choices, hidden = chosen.numel(), w_in.shape[1]
    if EXPERTS.choose(experts_call(x, chosen, gates, w_in)).form.name == "torch":
        return [x.new_empty(x.shape), chosen.new_empty(choices), x.new_empty(choices if keep else 0, hidden)]
    tiles = choices // ROWS + w_in.shape[0]
    rows = tiles * ROWS
    ints = [chosen.new_empty(n, dtype=torch.int32) for n in (choices, rows, w_in.shape[0] + 1, tiles)]
    floats = [x.new_empty(rows, n) for n in (x.shape[1], hidden if keep else 0, hidden, x.shape[1])]
    return [x.new_empty(x.shape), *ints, *floats]


@custom_op("kernels::experts_backward", mutates_args=())
def _backward(
    grad: Tensor, x: Tensor, chosen: Tensor, gates: Tensor, w_in: Tensor, b_in: Tensor | None, w_out: Tensor,
    b_out: Tensor | None, activation: str, saved: list[Tensor],
) -> list[Tensor]:  # fmt: skip
    call = experts_call(x, chosen, gates, w_in)
    layers = Layers(w_in, b_in, w_out, b_out, activation)
    return EXPERTS_BACKWARD.run(call, grad, x, chosen, gates, layers, saved)


@_backward.register_fake
def _(
    grad: Tensor, x: Tensor, chosen: Tensor, gates: Tensor, w_in: Tensor, b_in: Tensor | None, w_out: Tensor,
    b_out: Tensor | None, activation: str, saved: list[Tensor],
) -> list[Tensor]:  # fmt: skip
    biases = [w.new_empty(w.shape[:2] if b_in is not None else (0,)) for w in (w_in, w_out)]
    dx, dgates, dw_in, dw_out = (t.new_empty(t.shape) for t in (x, gates, w_in, w_out))
    return [dx, dgates, dw_in, biases[0], dw_out, biases[1]]


def _save(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    *given, ctx.activation, keep = inputs
    ctx.keep = keep
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*given, *output[1:])


def _gradients(ctx: Any, grads: list[Tensor | None]) -> tuple[Tensor | None, ...]:
    if grads[0] is None:
        return (None,) * 9
    x, chosen, gates, w_in, b_in, w_out, b_out, *saved = ctx.saved_tensors
    found = _backward(grads[0], x, chosen, gates, w_in, b_in, w_out, b_out, ctx.activation, saved)
    dx, dgates, dw_in, db_in, dw_out, db_out = found
    biased = b_in is not None
    return dx, None, dgates, dw_in, db_in if biased else None, dw_out, db_out if biased else None, None, None


experts.register_autograd(_gradients, setup_context=_save)
