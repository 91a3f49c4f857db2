"""The diagonal of a resolvent, and its gradient, site after site: written to be read."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.bk_core.chain import Chain

__all__ = ["bk_core", "bk_core_backward"]


def bk_core(chain: Chain) -> Tensor:
    d = chain.diagonal()
    left, right = _self_energies(d, chain.links())
    return 1 / (d - left - right)


def bk_core_backward(
    grad: Tensor, chain: Chain, of_links: bool = True, of_energy: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients with respect to the potential, the links (batch, n − 1) and, summed over sites, the energy (batch,).

    The latter two are empty where they are not asked for.

    With s = conj(grad) and P[i, j] = G[i, j] G[j, i] the loss falls by Re Σ s[i] P[i, j] where d[j] grows. For i < j
    P[i, j] = G[j, j]² Π_{i <= k < j} w[k] ρ[k]², ρ = 1 / (d − left): one first-order recursion from each end sums that.
    """
    d, w = chain.diagonal(), chain.links()
    left, right = _self_energies(d, w)
    g, s = 1 / (d - left - right), grad.conj()
    from_left = _sums(w / (d - left) ** 2, s)
    from_right = _sums((_before(w) / (d - right) ** 2).flip(1), s.flip(1)).flip(1)
    sensitivity = g**2 * (s + from_left + from_right)
    links = (g**2 * (s + from_left))[:, :-1] / (d - right)[:, 1:]
    links = links + (g**2 * (s + from_right))[:, 1:] / (d - left)[:, :-1]
    energy = sensitivity.sum(1).conj().resolve_conj()
    return (
        -sensitivity.real,
        links.real if of_links else d.real.new_empty(0, 0),
        energy if of_energy else d.new_empty(0),
    )


def _self_energies(d: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """(batch, n) twice: what the chain to the left of a site takes from d there, and the chain to its right."""
    return _self_energy(d, w), _self_energy(d.flip(1), _before(w).flip(1)).flip(1)


def _self_energy(d: Tensor, w: Tensor) -> Tensor:
    sigma = [torch.zeros_like(d[:, 0])]
    for i in range(d.shape[1] - 1):
        sigma.append(w[:, i] / (d[:, i] - sigma[i]))
    return torch.stack(sigma, 1)


def _sums(factor: Tensor, s: Tensor) -> Tensor:
    """a[j] = factor[j − 1] (a[j − 1] + s[j − 1]), a[0] = 0."""
    a = [torch.zeros_like(s[:, 0])]
    for j in range(s.shape[1] - 1):
        a.append(factor[:, j] * (a[j] + s[:, j]))
    return torch.stack(a, 1)


def _before(w: Tensor) -> Tensor:
    """The link to the left of each site, 0 for the first."""
    return w.roll(1, 1)
