"""Mixtures of experts beside all experts computed, and beside torch's own products by group."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, grouped_mm

from kernels.moe import experts, moe, reference, route
from kernels.moe.layers import Layers
from toolkit.bench.kernels.case import Case, Ways

__all__ = ["cases"]

_EXPERTS = 8


def cases() -> Iterator[Case]:
    for kind, tokens, d, hidden in (("cuda", 8192, 1024, 4096), ("cpu", 512, 256, 512)):
        dtype = torch.bfloat16 if kind == "cuda" else torch.float32
        for k in (1, 2):
            for what, products in ((_forward, 2), (_both, 6)):
                choices, weights = tokens * k, 2 * _EXPERTS * d * hidden
                yield Case(
                    operator="moe",
                    shape=f"{tokens} tokens, {d}, {hidden}, {k} of {_EXPERTS}, {what.__name__[1:]}",
                    kind=kind,
                    prepare=partial(_prepare, what, tokens, d, hidden, k, dtype),
                    flop=2.0 * products * choices * d * hidden,
                    bytes_moved=dtype.itemsize * (2 * tokens * d + weights) * products // 2,
                    goals={"all experts": 3.0} if kind == "cuda" else {},
                )


def _prepare(
    what: Callable[..., Ways], tokens: int, d: int, hidden: int, k: int, dtype: torch.dtype, device: torch.device
) -> Ways:
    rng = torch.Generator(device).manual_seed(0)
    shapes = ((tokens, d), (tokens, _EXPERTS), (_EXPERTS, hidden, d), (_EXPERTS, d, hidden), (tokens, d))
    x, logits, w_in, w_out, grad = (torch.randn(shape, device=device, generator=rng) for shape in shapes)
    given = (x, logits, w_in / d**0.5, w_out / hidden**0.5, grad)
    return what(*(t.to(dtype).requires_grad_() for t in given[:4]), grad.to(dtype), k)


def _forward(x: Tensor, logits: Tensor, w_in: Tensor, w_out: Tensor, grad: Tensor, k: int) -> Ways:
    """Router and experts; the peers are spared the router."""
    routed = route(logits.detach(), k, hard=False)
    dense, grouped = _silent(_all_experts, x, w_in, w_out), _silent(_by_group, x, routed.chosen, w_in, w_out)
    peers = {"all experts": dense, **({"grouped_mm": grouped} if x.is_cuda else {})}
    ours = _silent(lambda: moe(x, logits, w_in, w_out, k=k, hard=False).out)
    return Ways(ours=ours, error=partial(_error, x, routed.chosen, routed.gates, w_in, w_out), peers=peers)


def _both(x: Tensor, logits: Tensor, w_in: Tensor, w_out: Tensor, grad: Tensor, k: int) -> Ways:
    """Forward and backward, with the gradients of x, the router's logits and the weights."""

    def ours() -> Any:
        found = moe(x, logits, w_in, w_out, k=k, hard=False)
        return torch.autograd.grad((found.out,), (x, logits, w_in, w_out), (grad,))

    def dense() -> Any:
        return torch.autograd.grad((_all_experts(x, w_in, w_out),), (x, w_in, w_out), (grad,))

    routed = route(logits.detach(), k, hard=False)
    error = partial(_gradient_error, x, routed.chosen, routed.gates, w_in, w_out, grad)
    return Ways(ours=ours, error=error, peers={"all experts": dense})


def _silent(function: Callable[..., Tensor], *arguments: Tensor) -> Callable[[], Tensor]:
    def run() -> Tensor:
        with torch.no_grad():
            return function(*arguments)

    return run


def _all_experts(x: Tensor, w_in: Tensor, w_out: Tensor) -> Tensor:
    """What a mixture saves, without a router: every expert's answer to every token, added up."""
    z = torch.bmm(x.expand(w_in.shape[0], *x.shape), w_in.mT)
    return torch.bmm(gelu(z), w_out.mT).sum(0)


def _by_group(x: Tensor, chosen: Tensor, w_in: Tensor, w_out: Tensor) -> Tensor:
    """The experts alone, on rows that lie in order already, and left so: what torch does without our other kernels."""
    ends = torch.bincount(chosen.flatten(), minlength=w_in.shape[0]).cumsum(0, dtype=torch.int32)
    rows = x.repeat(chosen.shape[1], 1)
    return grouped_mm(gelu(grouped_mm(rows, w_in.mT, offs=ends)), w_out.mT, offs=ends)


def _error(x: Tensor, chosen: Tensor, gates: Tensor, w_in: Tensor, w_out: Tensor) -> tuple[float, float]:
    """On some tokens: the experts' answer against float64, and twice plain torch's error."""
    some, at, by, first, last = x[:64].detach(), chosen[:64], gates[:64].detach(), w_in.detach(), w_out.detach()
    truth = _masked(some.double(), at, by, first.double(), last.double())
    ours, plain = (f(some, at, by, first, last).double() - truth for f in (experts, _masked))
    rounding = torch.finfo(x.dtype).eps * truth.abs().max().item()
    return ours.abs().max().item(), 2 * plain.abs().max().item() + rounding


def _gradient_error(
    x: Tensor, chosen: Tensor, gates: Tensor, w_in: Tensor, w_out: Tensor, grad: Tensor
) -> tuple[float, float]:
    """The same for the gradients, each as a share of its largest element."""
    few = [t[:64].detach() for t in (x, chosen, gates)]
    given = few[0].requires_grad_(), few[1], few[2].requires_grad_(), w_in, w_out
    out = experts(few[0], few[1], few[2], w_in, w_out)
    found = torch.autograd.grad((out,), (few[0], few[2], w_in, w_out), (grad[:64],))
    plain, truth = _gradients_of(*given, grad[:64]), _gradients_of(*(_double(t) for t in (*given, grad[:64])))
    worst = [(_share(a, c), _share(b, c)) for a, b, c in zip(found, plain, truth, strict=True)]
    return max(a for a, _ in worst), 2 * max(b for _, b in worst) + torch.finfo(x.dtype).eps


def _gradients_of(
    x: Tensor, chosen: Tensor, gates: Tensor, w_in: Tensor, w_out: Tensor, grad: Tensor
) -> tuple[Tensor, ...]:
    with torch.no_grad():
        found = reference.experts_backward(grad, x, chosen, gates, Layers(w_in, None, w_out, None, "gelu"))
    return found[0], found[1], found[2], found[4]


def _double(t: Tensor) -> Tensor:
    return t.detach().double() if t.is_floating_point() else t


def _share(found: Tensor, truth: Tensor) -> float:
    return ((found.double() - truth).abs().max() / truth.abs().max()).item()


def _masked(x: Tensor, chosen: Tensor, gates: Tensor, w_in: Tensor, w_out: Tensor) -> Tensor:
    return reference.experts(x, chosen, gates, Layers(w_in, None, w_out, None, "gelu"))
