"""The diagonal of a resolvent in real arithmetic, without a loop over sites: for runtimes without complex numbers.

What a site makes of the self-energy that enters it is a Möbius map; the maps of all sites are composed by doubling:
log2(n) rounds, each the same few operators on all sites at once. Layout of the maps: (2, 2, direction, batch, n), where
direction 1 is reversed: the same recursion from the right.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["bk_core", "one_sided"]

_Pair = tuple[Tensor, Tensor]
"""A complex tensor by its real and its imaginary part."""


def bk_core(potential: Tensor, coupling: Tensor | float, real: Tensor | float, imag: Tensor | float) -> _Pair:
    """The real and the imaginary part of the diagonal, (batch, n) each.

    Args:
        potential: (batch, n), real.
        coupling: upper[i] · lower[i]: one number, or (1, n − 1) or (batch, n − 1).
        real: Re z: a number, or (batch, 1) or (1, 1).
        imag: Im z, likewise.
    """
    d = potential - real, torch.zeros_like(potential) - imag
    links = torch.zeros_like(potential[:, 1:]) + coupling
    to_next = torch.stack((pad(links, (0, 1)), pad(links.flip(1), (0, 1))))
    sigma, sigma_imag = _self_energies((_both(d[0]), _both(d[1])), to_next)
    return _quotient(
        (torch.ones_like(potential), torch.zeros_like(potential)),
        (d[0] - sigma[0] - sigma[1].flip(1), d[1] - sigma_imag[0] - sigma_imag[1].flip(1)),
    )


def one_sided(u: Tensor, w: Tensor) -> Tensor:
    """As `bk_one_sided`: (batch, n, heads) twice to (batch, n, heads, 2)."""
    u, w = u.transpose(1, 2), w.transpose(1, 2)
    d = u, torch.full_like(u, -1.0)
    sigma = _self_energies(d, pad(w[..., 1:], (0, 1)))
    found = _quotient((torch.ones_like(u), torch.zeros_like(u)), (d[0] - sigma[0], d[1] - sigma[1]))
    return torch.stack(found, -1).transpose(1, 2)


def _both(values: Tensor) -> Tensor:
    return torch.stack((values, values.flip(1)))


def _self_energies(d: _Pair, links: Tensor) -> _Pair:
    """(..., batch, n): what enters each site, of which one makes links / (d − it)."""
    zero, one = torch.zeros_like(links), torch.ones_like(links)
    maps = _matrix(zero, links, -one, d[0]), _matrix(zero, zero, zero, d[1])
    step = 1
    while step < links.shape[-1]:
        maps = _normalised(_composed(maps, step))
        step *= 2
    real, imag = _quotient((maps[0][0, 1], maps[1][0, 1]), (maps[0][1, 1], maps[1][1, 1]))
    return pad(real[..., :-1], (1, 0)), pad(imag[..., :-1], (1, 0))


def _matrix(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    return torch.stack((torch.stack((a, b)), torch.stack((c, d))))


def _composed(maps: _Pair, step: int) -> _Pair:
    """Each map after the one `step` sites before it, where there is one."""
    (a, b), (c, d) = ((part[..., step:], part[..., :-step]) for part in maps)
    real = _product(a, b) - _product(c, d)
    imag = _product(a, d) + _product(c, b)
    return torch.cat((maps[0][..., :step], real), -1), torch.cat((maps[1][..., :step], imag), -1)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Of 2x2 matrices whose elements are tensors."""
    return left[:, 0:1] * right[0:1] + left[:, 1:2] * right[1:2]


def _normalised(maps: _Pair) -> _Pair:
    """So that the largest real or imaginary part of each matrix is 1."""
    largest = torch.maximum(maps[0].abs(), maps[1].abs()).amax((0, 1))
    return maps[0] / largest, maps[1] / largest


def _quotient(above: _Pair, below: _Pair) -> _Pair:
    square = below[0].square() + below[1].square()
    real = (above[0] * below[0] + above[1] * below[1]) / square
    return real, (above[1] * below[0] - above[0] * below[1]) / square
