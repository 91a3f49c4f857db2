"""The diagonal of a resolvent as an operator of torch: torch.compile keeps it whole, autograd knows its gradient.

A number for all links, or for the energy, travels as a number: making a tensor of it would take a launch.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kernels.bk_core.chain import Chain
from kernels.dispatch import Call, Form, Operator, needs_triton
from kernels.eager import custom_op
from kernels.machine import machine_of
from kernels.memory import require
from kernels.nvrtc import needs_compiler

__all__ = ["BACKWARD", "FORWARD", "bk_core", "call", "workspace_bytes"]


FORWARD = Operator[Tensor](
    "bk_core",
    (
        Form("cuda", "kernels.bk_core.cuda:bk_core", needs_compiler),
        Form("triton", "kernels.bk_core.fused:bk_core", needs_triton),
        Form("torch", "kernels.bk_core.chunked:bk_core"),
        Form("reference", "kernels.bk_core.reference:bk_core"),
    ),
)
BACKWARD = Operator[tuple[Tensor, Tensor, Tensor]](
    "bk_core",
    (
        Form("cuda", "kernels.bk_core.cuda:bk_core_backward", needs_compiler),
        Form("triton", "kernels.bk_core.fused:bk_core_backward", needs_triton),
        Form("torch", "kernels.bk_core.chunked:bk_core_backward"),
        Form("reference", "kernels.bk_core.reference:bk_core_backward"),
    ),
)


def call(v: Tensor, **_: Any) -> Call:
    return Call(machine_of(v.device), v.dtype, {"batch": v.shape[0], "n": v.shape[1]})


def workspace_bytes(v: Tensor) -> int:
    """What a call allocates at most on a GPU, its result included; its gradient takes no more."""
    return 2 * v.element_size() * v.numel() + 64 * v.element_size() * v.shape[0] * (1 + v.shape[1] // 512)


@custom_op("kernels::bk_core", mutates_args=())
def bk_core(
    v: Tensor, couplings: Tensor | None, energies: Tensor | None, coupling: float, real: float, imag: float
) -> Tensor:
    """Couplings (1 or batch, n − 1) and energies (1 or batch,) stand for the numbers where they are given."""
    chain = _chain(v, couplings, energies, coupling, real, imag)
    require("bk_core", workspace_bytes(v), v.device)
    return FORWARD.run(call(v), chain) if v.numel() else _empty(v)


@bk_core.register_fake
def _(
    v: Tensor, couplings: Tensor | None, energies: Tensor | None, coupling: float, real: float, imag: float
) -> Tensor:
    return _empty(v)


@custom_op("kernels::bk_core_backward", mutates_args=())
def _backward(
    grad: Tensor,
    v: Tensor,
    couplings: Tensor | None,
    energies: Tensor | None,
    coupling: float,
    real: float,
    imag: float,
    of_links: bool,
    of_energy: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """With respect to v; and, each (batch, ...) where it is asked for, else empty, to couplings and energies."""
    chain = _chain(v, couplings, energies, coupling, real, imag)
    require("bk_core", workspace_bytes(v), v.device)
    if not v.numel():
        return _empty_gradients(v, of_links, of_energy)
    return BACKWARD.run(call(v), grad, chain, of_links, of_energy)


@_backward.register_fake
def _(
    grad: Tensor,
    v: Tensor,
    couplings: Tensor | None,
    energies: Tensor | None,
    coupling: float,
    real: float,
    imag: float,
    of_links: bool,
    of_energy: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_gradients(v, of_links, of_energy)


def _chain(
    v: Tensor, couplings: Tensor | None, energies: Tensor | None, coupling: float, real: float, imag: float
) -> Chain:
    return Chain(v, coupling if couplings is None else couplings, complex(real, imag) if energies is None else energies)


def _empty(v: Tensor) -> Tensor:
    return v.new_empty(v.shape, dtype=v.dtype.to_complex())


def _empty_gradients(v: Tensor, of_links: bool, of_energy: bool) -> tuple[Tensor, Tensor, Tensor]:
    batch, n = v.shape
    links = v.new_zeros((batch, n - 1) if of_links else (0, 0))
    return v.new_empty(v.shape), links, v.new_zeros(batch if of_energy else 0, dtype=v.dtype.to_complex())


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    v, couplings, energies, *ctx.numbers = inputs
    ctx.save_for_backward(v, couplings, energies)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    v, couplings, energies = ctx.saved_tensors
    of_links, of_energy = ctx.needs_input_grad[1:3]
    coupling, real, imag = ctx.numbers
    of_v, links, energy = _backward(grad, v, couplings, energies, coupling, real, imag, of_links, of_energy)
    return (
        of_v,
        links.sum_to_size(couplings.shape) if of_links else None,
        energy.sum_to_size(energies.shape) if of_energy else None,
        None,
        None,
        None,
    )


bk_core.register_autograd(_gradients, setup_context=_save)
