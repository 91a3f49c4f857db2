"""The diagonal of a resolvent as the left half of the chain gives it: what a causal model may know of a chain.

ρ[i] = G[i, i] of the chain that ends at site i, G = (H − i)⁻¹, H with diagonal u and products w of opposite
off-diagonals:

    ρ[i] = 1 / (u[i] − i − w[i] ρ[i − 1]),   w[i] the link to site i from the one before it, ρ[−1] = 0.

With w >= 0 the divisor has an imaginary part of at most −1, so |ρ| <= 1 and nothing overflows. A change of u[j] or w[j]
changes ρ[i] for i >= j alone. Other imaginary parts than 1 are a matter of units: u / η, w / η² and ρ / η.

In parallel: a step is a Möbius map of ρ, so is what a chunk of sites does; the maps of chunks, 2x2 matrices of minors,
are composed by doubling, and then every chunk knows what enters it and steps through its sites. The gradient is a
recursion of first order from the right, done alike: with s the gradient's conjugate,

    T[i] = s[i] + w[i + 1] ρ[i + 1]² T[i + 1],   dL/du[i] = −Re(ρ[i]² T[i]),   dL/dw[i] = Re(ρ[i]² T[i] ρ[i − 1])

Time and memory are O(n). Source: Godfrin 1991, J. Phys.: Condens. Matter 3, 7843 (the recursion); Blelloch 1990,
"Prefix sums and their applications" (chunks). Layout of chunks: K site of a chunk, R row, P chunk.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["one_sided"]

_SITES = 16
"""Of a chunk: each is a few launches whatever the length, fewer are more work to compose."""
_STEPS = 8
"""Between two normalisations of minors, which grow by |u| + 1 a step: 1e4 to the 8th is still a float32."""


def one_sided(u: Tensor, w: Tensor) -> Tensor:
    """ρ of each site, differentiable once.

    Args:
        u: (rows, n) float32 or float64, |u| to 1e4.
        w: Same shape and dtype, >= 0; w[:, 0] is not looked at.

    Returns:
        (rows, n, 2): its real and its imaginary part.
    """
    found: Tensor = _OneSided.apply(u, w)  # type: ignore[no-untyped-call]
    return found


class _OneSided(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor, w: Tensor) -> Tensor:
        rho = _resolvent(u, w)
        ctx.save_for_backward(w, rho)
        return torch.view_as_real(rho)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        w, rho = ctx.saved_tensors
        square = rho.square()
        factor = pad((w * square)[:, 1:], (0, 1))
        s = torch.view_as_complex(grad.contiguous()).conj()
        total = square * _sums_from_the_right(factor, s)
        of_w = (total[:, 1:] * rho[:, :-1]).real if ctx.needs_input_grad[1] else None
        return -total.real, None if of_w is None else pad(of_w, (1, 0))


def _resolvent(u: Tensor, w: Tensor) -> Tensor:
    """(rows, n) complex."""
    d_KRP, w_KRP = torch.complex(_cut(u), u.new_full((), -1.0)), _cut(pad(w[:, 1:], (1, 0)))
    rho, found = _entering(d_KRP, w_KRP), torch.empty_like(d_KRP)
    for k in range(d_KRP.shape[0]):
        rho = torch.reciprocal(torch.addcmul(d_KRP[k], w_KRP[k].to(d_KRP.dtype), rho, value=-1), out=found[k])
    return _joined(found, u.shape[1])


def _entering(d_KRP: Tensor, w_KRP: Tensor) -> Tensor:
    """(R, P): ρ of the site before each chunk."""
    entering = torch.zeros_like(d_KRP[0])
    if entering.shape[1] == 1:
        return entering
    maps = _maps(d_KRP, w_KRP.neg())
    step = 1
    while step < maps.shape[-1]:
        after, before = maps[..., step:], maps[..., :-step]
        maps = _normalised(torch.cat((maps[..., :step], _product(after, before)), -1))
        step *= 2
    entering[:, 1:] = (maps[0, 1] / maps[1, 1])[:, :-1]
    return entering


def _maps(d_KRP: Tensor, minus_w_KRP: Tensor) -> Tensor:
    """(2, 2, R, P): what each chunk makes of the ρ that enters it, as numerator and denominator."""
    one, zero = torch.ones_like(d_KRP[0]), torch.zeros_like(d_KRP[0])
    above, below = torch.stack((one, zero)), torch.stack((zero, one))  # rows of the identity
    for k in range(d_KRP.shape[0]):
        above, below = below, torch.addcmul(minus_w_KRP[k] * above, d_KRP[k], below)
        if k % _STEPS == _STEPS - 1:
            above, below = _normalised(torch.stack((above, below)))
    return _normalised(torch.stack((above, below)))


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Of 2x2 matrices whose elements are tensors."""
    return left[:, 0, None] * right[None, 0] + left[:, 1, None] * right[None, 1]


def _normalised(matrices: Tensor) -> Tensor:
    """So that the largest real or imaginary part of each 2x2 matrix is 1."""
    parts = torch.view_as_real(matrices)
    return torch.view_as_complex(parts / parts.abs().amax(-1).flatten(0, 1).amax(0)[..., None])


def _sums_from_the_right(factor: Tensor, s: Tensor) -> Tensor:
    """(rows, n): T[i] = s[i] + factor[i] T[i + 1]."""
    f_KRP, s_KRP = _cut(factor.flip(1)), _cut(s.flip(1))
    total, scale = torch.zeros_like(s_KRP[0]), torch.ones_like(s_KRP[0])
    for k in range(s_KRP.shape[0]):
        total, scale = torch.addcmul(s_KRP[k], f_KRP[k], total), scale * f_KRP[k]
    now, sums = _affine_entering(scale, total), torch.empty_like(s_KRP)
    for k in range(s_KRP.shape[0]):
        now = torch.addcmul(s_KRP[k], f_KRP[k], now, out=sums[k])
    return _joined(sums, s.shape[1]).flip(1)


def _affine_entering(scale: Tensor, total: Tensor) -> Tensor:
    """(R, P): what enters each chunk, where a chunk makes scale · x + total of x."""
    step = 1
    while step < total.shape[-1]:
        total = torch.cat(
            (total[..., :step], torch.addcmul(total[..., step:], scale[..., step:], total[..., :-step])), -1
        )
        scale = torch.cat((scale[..., :step], scale[..., step:] * scale[..., :-step]), -1)
        step *= 2
    return pad(total[..., :-1], (1, 0))


def _cut(values: Tensor) -> Tensor:
    """(rows, n) as (K, R, P), zeros behind the end."""
    rows, n = values.shape
    sites = min(_SITES, n)
    return pad(values, (0, -n % sites)).view(rows, -1, sites).permute(2, 0, 1).contiguous()


def _joined(values_KRP: Tensor, n: int) -> Tensor:
    """(rows, n)."""
    return values_KRP.permute(1, 2, 0).flatten(1)[:, :n].contiguous()
