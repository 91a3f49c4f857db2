"""The one-sided resolvent as an operator of torch: torch.compile keeps it whole, autograd knows its gradient."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kernels.dispatch import Call, Form, Operator, needs_triton
from kernels.eager import custom_op
from kernels.machine import machine_of
from kernels.memory import require

__all__ = ["BACKWARD", "FORWARD", "bk_one_sided", "call", "workspace_bytes"]

_PATH = "kernels.bk_core.one_sided"

_MOST_HEADS = 65_535


def _too_wide_for_triton(call: Call) -> str | None:
    if call.sizes["heads"] > _MOST_HEADS:
        return f"more than {_MOST_HEADS} heads are more programs abreast than CUDA launches"
    return needs_triton(call)


FORWARD = Operator[Tensor](
    "bk_one_sided",
    (
        Form("triton", f"{_PATH}.fused:bk_one_sided", _too_wide_for_triton),
        Form("torch", f"{_PATH}.chunked:bk_one_sided"),
        Form("reference", f"{_PATH}.reference:bk_one_sided"),
    ),
)
BACKWARD = Operator[tuple[Tensor, Tensor]](
    "bk_one_sided",
    (
        Form("triton", f"{_PATH}.fused:bk_one_sided_backward", _too_wide_for_triton),
        Form("torch", f"{_PATH}.chunked:bk_one_sided_backward"),
        Form("reference", f"{_PATH}.reference:bk_one_sided_backward"),
    ),
)


def call(u: Tensor, *_: Any) -> Call:
    return Call(machine_of(u.device), u.dtype, {"batch": u.shape[0], "n": u.shape[1], "heads": u.shape[2]})


def workspace_bytes(u: Tensor) -> int:
    """What a call allocates at most on a GPU, its result included; its gradient takes no more."""
    return 5 * u.element_size() * u.numel() + 16 * u.element_size() * u.shape[0] * u.shape[2]


@custom_op("kernels::bk_one_sided", mutates_args=())
def bk_one_sided(u: Tensor, w: Tensor) -> Tensor:
    require("bk_one_sided", workspace_bytes(u), u.device)
    return FORWARD.run(call(u), u, w) if u.numel() else _empty(u)


@bk_one_sided.register_fake
def _(u: Tensor, w: Tensor) -> Tensor:
    return _empty(u)


@custom_op("kernels::bk_one_sided_backward", mutates_args=())
def _backward(grad: Tensor, w: Tensor, rho: Tensor, of_links: bool) -> tuple[Tensor, Tensor]:
    """With respect to `u`; and, (B, N, heads) where it is asked for, else empty, to `w`."""
    require("bk_one_sided", workspace_bytes(w), w.device)
    if not rho.numel():
        return _empty_gradients(rho, of_links)
    return BACKWARD.run(call(w), grad, w, rho, of_links)


@_backward.register_fake
def _(grad: Tensor, w: Tensor, rho: Tensor, of_links: bool) -> tuple[Tensor, Tensor]:
    return _empty_gradients(rho, of_links)


def _empty(u: Tensor) -> Tensor:
    return u.new_empty(*u.shape, 2)


def _empty_gradients(rho: Tensor, of_links: bool) -> tuple[Tensor, Tensor]:
    return rho.new_empty(rho.shape[:3]), rho.new_empty(rho.shape[:3] if of_links else (0,))


def _save(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1], output)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None]:
    w, rho = ctx.saved_tensors
    of_links = ctx.needs_input_grad[1]
    of_u, links = _backward(grad.contiguous(), w, rho, of_links)
    return of_u, links if of_links else None


bk_one_sided.register_autograd(_gradients, setup_context=_save)
