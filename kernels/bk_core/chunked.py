"""The diagonal of a resolvent in plain torch: chunks of many chains step together, both directions at once.

A chain is cut into chunks. What a chunk makes of the self-energy that enters it is a Möbius map, given by the
continuants (leading minors) of the chunk; these maps, normalised, are composed by doubling, and then every chunk knows
what enters it and steps through its sites. Layouts: D direction (1 is reversed: the same recursion from the right),
B row, P chunk, K site of a chunk; a step of K touches a contiguous piece.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from kernels.bk_core.chain import Chain
from kernels.bk_core.matrices import affine_entering, composed, normalised

__all__ = ["bk_core", "bk_core_backward"]

_LANES = 4096
"""Chunks that step together: enough to make a step's work outweigh calling it, few enough for the cache."""
_FEWEST_SITES = 32
"""Of a chunk: below this composing the maps costs more than the steps that it saves."""
_SITES_AT_ONCE = 2**19
"""Rows are taken in groups of about this many sites."""
_STEPS = {torch.complex64: 4, torch.complex128: 32}
"""Between two normalisations of continuants: they grow by |d| a step, and 1e9 to the 4th is still a float32."""


def bk_core(chain: Chain) -> Tensor:
    out = torch.empty(chain.potential.shape, dtype=chain.potential.dtype.to_complex(), device=chain.potential.device)
    for first, end in _groups(*chain.potential.shape):
        tiles = _Tiles.of(chain.rows(first, end))
        out[first:end] = tiles.row_major(_green(tiles, _self_energies(tiles)[0]))
    return out


def bk_core_backward(
    grad: Tensor, chain: Chain, of_links: bool = True, of_energy: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """As the reference's."""
    groups = _groups(*chain.potential.shape)
    found = [_gradients(grad[first:end], chain.rows(first, end), of_links, of_energy) for first, end in groups]
    potential, links, energy = (torch.cat(parts) for parts in zip(*found, strict=True))
    return potential, links, energy


def _groups(batch: int, n: int) -> Iterator[tuple[int, int]]:
    rows = max(_SITES_AT_ONCE // n, 1)
    return ((first, min(first + rows, batch)) for first in range(0, batch, rows))


@dataclass(frozen=True)
class _Tiles:
    """A chain cut up: `d_KDBP` the diagonal, `w_KDBP` the link to the next site in the direction of D, or a number."""

    n: int
    d_KDBP: Tensor
    w_KDBP: Tensor | float

    @classmethod
    def of(cls, chain: Chain) -> _Tiles:
        batch, n = chain.potential.shape
        chunks = max(min(_LANES // batch, n // _FEWEST_SITES), 1)
        sites = -(-n // chunks)
        more = (0, -(-n // sites) * sites - n)
        x = pad(chain.finite(), more)
        tiles = _cut(x, x, sites)
        shift = chain.shift().reshape(-1, 1)
        d = torch.complex(tiles - shift.real, (-shift.imag).expand(tiles.shape))
        if not isinstance(chain.coupling, Tensor) and not more[1]:
            return cls(n, d, chain.coupling)  # the last link of a row leads nowhere, and may be anything
        w = pad(chain.links(), more)
        return cls(n, d, _cut(w, w.roll(1, 1), sites).to(d.dtype))

    def link(self, k: int) -> Tensor | float:
        return self.w_KDBP[k] if isinstance(self.w_KDBP, Tensor) else self.w_KDBP

    def cut(self, values: Tensor) -> Tensor:
        """(batch, n), seen from both ends."""
        sites = self.d_KDBP.shape[0]
        values = pad(values, (0, self.d_KDBP[:, 0, 0].numel() - self.n))
        return _cut(values, values, sites)

    def row_major(self, values_KBP: Tensor) -> Tensor:
        """(batch, n)."""
        return values_KBP.permute(1, 2, 0).flatten(1)[:, : self.n]


def _cut(values: Tensor, seen_from_the_right: Tensor, sites: int) -> Tensor:
    both = torch.stack((values, seen_from_the_right.flip(1)))
    return both.view(2, values.shape[0], -1, sites).permute(3, 0, 1, 2).contiguous()


def _reverse(values_KBP: Tensor) -> Tensor:
    """From the order of one direction to that of the other."""
    return values_KBP.flip(0, 2)


def _self_energies(tiles: _Tiles) -> tuple[Tensor, Tensor]:
    """(K, D, B, P) twice: the self-energy that enters each site, and 1 / (d − it)."""
    d = tiles.d_KDBP
    sigma, inverse = torch.empty_like(d), torch.empty_like(d)
    sigma[0] = _entering(tiles)
    for k in range(d.shape[0]):
        torch.reciprocal(d[k] - sigma[k], out=inverse[k])
        if k + 1 < d.shape[0]:
            torch.mul(inverse[k], tiles.link(k), out=sigma[k + 1])
    return sigma, inverse


def _green(tiles: _Tiles, sigma_KDBP: Tensor) -> Tensor:
    return (tiles.d_KDBP[:, 0] - sigma_KDBP[:, 0]).sub_(_reverse(sigma_KDBP[:, 1])).reciprocal_()


def _entering(tiles: _Tiles) -> Tensor:
    """(D, B, P): the self-energy that enters each chunk."""
    entering = torch.zeros_like(tiles.d_KDBP[0])
    if entering.shape[-1] == 1:
        return entering
    all_, but_first, but_last, inner = _continuants(tiles)
    rightward = torch.stack((-inner, but_last, -but_first, all_))
    leftward = torch.stack((-inner, but_first, -but_last, all_)).flip(-1)
    maps = torch.stack((rightward, leftward), 1).view(2, 2, *entering.shape)
    maps[0] *= tiles.link(-1)
    maps = composed(maps)
    entering[..., 1:] = (maps[0, 1] / maps[1, 1])[..., :-1]
    return entering


def _continuants(tiles: _Tiles) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The minors of each chunk: whole, without its first site, without its last, without both; to a common factor."""
    d_KBP, w = tiles.d_KDBP[:, 0], tiles.w_KDBP
    now = torch.stack((d_KBP[0], torch.ones_like(d_KBP[0])))
    before = torch.stack((torch.ones_like(d_KBP[0]), torch.zeros_like(d_KBP[0])))
    for k in range(1, d_KBP.shape[0]):
        before.mul_(-w[k - 1, 0] if isinstance(w, Tensor) else -w)
        now, before = torch.addcmul(before, d_KBP[k], now), now
        if k % _STEPS[d_KBP.dtype] == 0:
            now, before = normalised(torch.stack((now, before)))
    return now[0], now[1], before[0], before[1]


def _gradients(grad: Tensor, chain: Chain, of_links: bool, of_energy: bool) -> tuple[Tensor, Tensor, Tensor]:
    tiles = _Tiles.of(chain)
    sigma, inverse = _self_energies(tiles)
    g = tiles.row_major(_green(tiles, sigma))
    s = grad.conj().resolve_conj()
    sums = _sums(inverse.square() * tiles.w_KDBP, tiles.cut(s))
    of_left, of_right = g.square() * (s + _both(tiles, sums))
    sensitivity = of_left + of_right - g.square() * s
    energy = sensitivity.sum(1).conj().resolve_conj() if of_energy else s[:0, 0]
    if not of_links:
        return -sensitivity.real, g.real[:0, :0], energy
    left_inverse, right_inverse = _both(tiles, inverse)
    links = of_left[:, :-1] * right_inverse[:, 1:] + of_right[:, 1:] * left_inverse[:, :-1]
    return -sensitivity.real, links.real, energy


def _both(tiles: _Tiles, values_KDBP: Tensor) -> Tensor:
    """(2, batch, n): of both directions, each in the order of the sites."""
    return torch.stack((tiles.row_major(values_KDBP[:, 0]), tiles.row_major(_reverse(values_KDBP[:, 1]))))


def _sums(factor: Tensor, s: Tensor) -> Tensor:
    """(K, D, B, P): a[j] = factor[j − 1] (a[j − 1] + s[j − 1]) along each direction, 0 at its start."""
    total, scale = torch.zeros_like(s[0]), torch.ones_like(s[0])
    for k in range(s.shape[0]):
        total, scale = (total + s[k]).mul_(factor[k]), scale * factor[k]
    sums = torch.empty_like(s)
    sums[0] = affine_entering(scale, total)
    for k in range(s.shape[0] - 1):
        torch.mul(sums[k] + s[k], factor[k], out=sums[k + 1])
    return sums
