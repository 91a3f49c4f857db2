"""Effective ranks as one operator of torch: torch.compile keeps it whole, autograd knows its gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kernels.dispatch import Call, Form, Operator
from kernels.eager import custom_op
from kernels.effective_rank.gradient import effective_rank_backward
from kernels.effective_rank.log_determinants import BYTES_AT_ONCE
from kernels.machine import machine_of
from kernels.memory import require

__all__ = ["ENTROPY", "PARTICIPATION", "STABLE", "effective_rank", "rank_call", "workspace_bytes"]

_PRODUCTS = "kernels.effective_rank.products:effective_rank"
_EXACT = (
    Form("eigenvalues", "kernels.effective_rank.eigenvalues:effective_rank"),
    Form("torch", "kernels.effective_rank.reference:effective_rank"),
)


def _slower_than_eigenvalues(call: Call) -> str | None:
    if call.dtype == torch.float64:
        return "float64 asks for more digits than 19 determinants or a few squarings give"
    return None if call.machine.kind == "cuda" else f"eigenvalues take a {call.machine.kind} less time than products"


PARTICIPATION = Operator[Tensor]("effective_rank", (Form("products", _PRODUCTS), *_EXACT))
ENTROPY = Operator[Tensor]("effective_rank", (Form("products", _PRODUCTS, _slower_than_eigenvalues), *_EXACT))
STABLE = Operator[Tensor]("effective_rank", (Form("products", _PRODUCTS, _slower_than_eigenvalues), *_EXACT))
_OPERATORS = {"participation": PARTICIPATION, "entropy": ENTROPY, "stable": STABLE}


def rank_call(w: Tensor) -> Call:
    return Call(machine_of(w.device), w.dtype, {"batch": w.shape[:-2].numel(), "m": w.shape[-2], "n": w.shape[-1]})


def workspace_bytes(w: Tensor, kind: str) -> int:
    """What ranks take beside w: w and its Gram matrix, a few times over, in numbers of 8 bytes or, participation, 4."""
    gram = w.shape[:-2].numel() * min(w.shape[-2:]) ** 2
    if kind == "participation" and PARTICIPATION.choose(rank_call(w)).form.name == "products":
        return max(w.element_size(), 4) * 2 * (w.numel() + gram)
    return 8 * (2 * w.numel() + 4 * gram) + (2 * max(BYTES_AT_ONCE, 8 * gram) if _by_determinants(w, kind) else 0)


def _by_determinants(w: Tensor, kind: str) -> bool:
    return kind == "entropy" and ENTROPY.choose(rank_call(w)).form.name == "products"


@custom_op("kernels::effective_rank", mutates_args=())
def effective_rank(w: Tensor, kind: str) -> Tensor:
    require("effective_rank", workspace_bytes(w, kind), w.device)
    return _OPERATORS[kind].run(rank_call(w), w, kind)


@effective_rank.register_fake
def _(w: Tensor, kind: str) -> Tensor:
    return w.new_empty(w.shape[:-2])


@custom_op("kernels::effective_rank_backward", mutates_args=())
def _backward(grad: Tensor, w: Tensor, kind: str) -> Tensor:
    return effective_rank_backward(grad, w, kind)


@_backward.register_fake
def _(grad: Tensor, w: Tensor, kind: str) -> Tensor:
    return w.new_empty(w.shape)


def _save(ctx: Any, inputs: tuple[Tensor, str], output: Tensor) -> None:
    w, ctx.kind = inputs
    ctx.save_for_backward(w)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return _backward(grad, ctx.saved_tensors[0], ctx.kind), None


effective_rank.register_autograd(_gradients, setup_context=_save)
