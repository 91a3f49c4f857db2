"""The resolvent of chains in real arithmetic, without a loop over sites: for runtimes without complex numbers, and
where the package `kernels` is missing.

ρ[i] = 1 / (u[i] − i − w[i] ρ[i − 1]) is G[i, i] of the chain that ends at i (`kernels/bk_core/one_sided`). The Möbius
maps of single sites are composed by doubling: log2(n) rounds, each the same few operators on all sites at once. A map
is a complex 2x2 matrix, held as (4, 2): its real part above its imaginary part.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from toolkit.models.blueprints.sizes import length_of

__all__ = ["one_sided", "two_sided"]


def two_sided(u: Tensor, w: Tensor) -> Tensor:
    """(rows, n, 2) of the whole chain: G[i, i] = 1 / (u[i] − i − w[i] ρ[i − 1] − w[i + 1] λ[i + 1]), λ being ρ of the
    reversed chain.
    """
    to_next = pad(w[:, 1:], (0, 1))
    from_left = pad(w[:, 1:], (1, 0))[..., None] * pad(one_sided(u, w)[:, :-1], (0, 0, 1, 0))
    reverse = one_sided(u.flip(1), pad(to_next[:, :-1].flip(1), (1, 0))).flip(1)
    from_right = to_next[..., None] * pad(reverse[:, 1:], (0, 0, 0, 1))
    real, imag = (from_left + from_right).unbind(-1)
    real, imag = u - real, -1 - imag
    return torch.stack((real, -imag), -1) / (real.square() + imag.square())[..., None]


def one_sided(u: Tensor, w: Tensor) -> Tensor:
    """ρ as [Re ρ, Im ρ], (rows, n, 2).

    Args:
        u: (rows, n) float32 or float64, |u| to 1e4.
        w: Same shape and dtype, >= 0: the link to each site from the one before it; w[:, 0] is not looked at.
    """
    zero, one = torch.zeros_like(u), torch.ones_like(u)
    parts = (zero, one, -pad(w[:, 1:], (1, 0)), u, zero, zero, zero, -one)  # [[0, 1], [-w, u - i]]
    maps = torch.stack(parts).reshape(4, 2, *u.shape)
    step, n = 1, length_of(u)
    while step < n:
        maps = _composed(maps, step)
        step *= 2
    return _quotient(maps[0::2, 1], maps[1::2, 1])


def _composed(maps: Tensor, step: int) -> Tensor:
    """Each map after the one `step` sites before it, where there is one; its largest element is 1 then."""
    after, before = maps[..., step:], maps[..., :-step]
    times_i = torch.cat((-after[2:], after[:2]))
    made = (torch.cat((after, times_i), 1)[:, :, None] * before[None]).sum(1)
    made = made / made.abs().amax((0, 1))
    return torch.cat((maps[..., :step], made), -1)


def _quotient(above: Tensor, below: Tensor) -> Tensor:
    """(rows, n, 2), of (2, rows, n) real and imaginary parts."""
    real = (above * below).sum(0)
    imag = above[1] * below[0] - above[0] * below[1]
    return torch.stack((real, imag), -1) / below.square().sum(0)[..., None]
