"""Attention as operators of torch: torch.compile keeps them whole, autograd knows their gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.attention import hopper, library
from kernels.attention.blocks import BLOCK, scores_at_once
from kernels.attention.shapes import shared_bytes
from kernels.dispatch import Call, Form, Operator, needs_triton
from kernels.eager import custom_op
from kernels.machine import machine_of
from kernels.memory import require

__all__ = ["ATTENTION", "ATTENTION_BACKWARD", "attention", "attention_call", "workspace_bytes"]


def _not_in_triton(call: Call) -> str | None:
    return needs_triton(call) or _unfit(call) or (_too_little(call) if call.machine.kind == "cuda" else None)


def _too_little(call: Call) -> str | None:
    if call.machine.capability < (8, 0):
        return f"its tiles need the asynchronous copies of compute capability 8.0, {call.machine} has less"
    needed = shared_bytes(call.sizes["d"], call.sizes["dv"], call.dtype)
    if needed > call.machine.shared_bytes:
        return f"its tiles need {needed:,} bytes of shared memory, {call.machine} has {call.machine.shared_bytes:,}"
    return None


def _unfit(call: Call) -> str | None:
    if call.dtype == torch.float64:
        return "the matrix units know no float64"
    if call.dtype == torch.bfloat16 and call.machine.kind != "cuda":
        return "Triton's interpreter takes the bits of bfloat16 for integers"
    widths = [call.sizes[name] for name in ("d", "dv")]
    if any(width % 8 for width in widths):
        return f"rows are copied 16 bytes at a time, and widths {widths} are no multiples of 8"
    return None


def _gradient_beside_cuda(call: Call) -> str | None:
    """The form of that name has a forward pass alone; where it is asked for, gradients are Triton's."""
    return hopper.unfit(call) or _not_in_triton(call)


ATTENTION = Operator[tuple[Tensor, Tensor, Tensor]](
    "attention",
    (
        Form("cuda", "kernels.attention.hopper:attention", hopper.refusal),
        Form("triton", "kernels.attention.fused:attention", _not_in_triton),
        Form("library", "kernels.attention.library:attention", library.refusal),
        Form("torch", "kernels.attention.blocks:attention"),
    ),
)
ATTENTION_BACKWARD = Operator[tuple[Tensor, Tensor, Tensor]](
    "attention",
    (
        Form("cuda", "kernels.attention.fused_backward:attention_backward", _gradient_beside_cuda),
        Form("triton", "kernels.attention.fused_backward:attention_backward", _not_in_triton),
        Form("torch", "kernels.attention.blocks:attention_backward"),
    ),
)


def attention_call(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, key_padding: Any = None, window: int | None = None,
    tiles: Any = None, scale: float | None = None, return_stats: bool = False,
) -> Call:  # fmt: skip
    """A call by the arguments of the public function."""
    batch, heads, m, d = q.shape
    sizes = {"B": batch, "H": heads, "K": k.shape[1], "M": m, "N": k.shape[2], "d": d, "dv": v.shape[3]}
    masks = sum(mask is not None for mask in (key_padding, window, tiles))
    switches = {"causal": int(causal), "masks": masks, "statistics": int(return_stats)}
    return Call(machine_of(q.device), q.dtype, sizes | switches)


def workspace_bytes(q: Tensor, k: Tensor, v: Tensor, **options: Any) -> int:
    """What a call of `attention` with these arguments allocates, its outputs included, in the form that would run.

    Raises:
        KernelUnavailable: KERNELS_FORM names a form that does not take the call.
    """
    call = attention_call(q, k, v, **options)
    rows = q.shape[0] * q.shape[1] * q.shape[2]
    sums = max(4, q.element_size())
    outputs = rows * (v.shape[3] * q.element_size() + sums)
    form = ATTENTION.choose(call).form.name
    if form in ("cuda", "triton"):
        return outputs + (rows // 2 if call.sizes["statistics"] else 0)  # 32 bytes for each program of 64 queries
    if form == "library":
        return 2 * outputs
    each_row = 5 * sums * rows if call.sizes["statistics"] else 0
    widths = (2 * q.shape[3] + 3 * v.shape[3]) * scores_at_once(q.device) // BLOCK
    return outputs + each_row + (4 * scores_at_once(q.device) + widths) * sums


@custom_op("kernels::attention", mutates_args=())
def attention(
    q: Tensor, k: Tensor, v: Tensor, key_padding: Tensor | None, tiles: Tensor | None,
    causal: bool, window: int | None, scale: float, return_stats: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    options: dict[str, Any] = {
        "causal": causal, "key_padding": key_padding, "window": window, "tiles": tiles, "return_stats": return_stats,
    }  # fmt: skip
    require("attention", workspace_bytes(q, k, v, **options), q.device)
    return ATTENTION.run(
        attention_call(q, k, v, **options), q, k, v, key_padding, tiles, causal, window, scale, return_stats
    )


@attention.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, key_padding: Tensor | None, tiles: Tensor | None,
    causal: bool, window: int | None, scale: float, return_stats: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    sums = torch.float64 if q.dtype == torch.float64 else torch.float32
    out = q.new_empty(*q.shape[:3], v.shape[3])
    return out, q.new_empty(q.shape[:3], dtype=sums), q.new_empty((5 * return_stats, *q.shape[:2]), dtype=sums)


@custom_op("kernels::attention_backward", mutates_args=())
def _backward(
    dout: Tensor, dlse: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
    key_padding: Tensor | None, tiles: Tensor | None, causal: bool, window: int | None, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return ATTENTION_BACKWARD.run(
        attention_call(q, k, v), dout, dlse, q, k, v, out, lse, key_padding, tiles, causal, window, scale
    )


@_backward.register_fake
def _(
    dout: Tensor, dlse: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
    key_padding: Tensor | None, tiles: Tensor | None, causal: bool, window: int | None, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    q, k, v, key_padding, tiles, *ctx.options, _ = inputs
    ctx.save_for_backward(q, k, v, *output[:2], key_padding, tiles)


def _gradients(ctx: Any, dout: Tensor, dlse: Tensor, dstats: Tensor) -> tuple[Tensor | None, ...]:
    """Statistics carry no gradient: `dstats` is not looked at."""
    q, k, v, out, lse, key_padding, tiles = ctx.saved_tensors
    gradients = _backward(dout, dlse, q, k, v, out, lse, key_padding, tiles, *ctx.options)
    return (*gradients, *[None] * 6)


attention.register_autograd(_gradients, setup_context=_save)
