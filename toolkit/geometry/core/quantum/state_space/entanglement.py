"""What shows that two parts are entangled: negativity, concurrence, Schmidt rank, Bell's inequality."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.core.quantum.state_space.checks import require_density
from toolkit.geometry.core.quantum.state_space.spaces import HilbertSpace

__all__ = ["PAULI", "EntanglementWitness", "chsh_maximum", "concurrence", "entanglement_witness", "negativity"]

PAULI = ([[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]])
_PURE = 1e-9  # purity this close to 1 counts as pure
_RANK = 1e-12  # Schmidt probabilities below are rounding: they are sums of d squares of 1e-16


class EntanglementWitness(NamedTuple):
    """Witnesses across the cut between the first factor and the others.

    Args:
        negativity: [*B], the sum of the negative eigenvalues of the partial transpose, without sign.
        log_negativity: [*B], log2(2 negativity + 1).
        schmidt_rank: int64 [*B] of pure states; 0 where the state is mixed, for which no rank is computed.
        concurrence: [*B] of two qubits in [0, 1]; None for other dimensions.
        chsh_maximum: [*B] of two qubits: the largest CHSH value over all settings, above 2 only if entangled; or None.
    """

    negativity: Tensor
    log_negativity: Tensor
    schmidt_rank: Tensor
    concurrence: Tensor | None
    chsh_maximum: Tensor | None


def entanglement_witness(rho: Tensor, dims: Sequence[int]) -> EntanglementWitness:
    """How entangled the first factor of `rho` [*B, d, d] is with the others.

    Args:
        rho: Density matrix on the product of `dims`.
        dims: At least two factors. To look at another cut, reorder or merge them.

    Raises:
        GeometryError: `rho` is no density matrix of these factors, or there is one factor only.

    Source: Vidal and Werner 2002; Wootters 1998; Horodecki, Horodecki and Horodecki 1995.
    """
    cut = _cut(rho, dims)
    below = negativity(rho, dims)
    reduced = torch.linalg.eigvalsh(cut.partial_trace(rho.detach(), [0]))
    pure = rho.detach().abs().square().sum((-2, -1)) > 1 - _PURE
    rank = torch.where(pure, (reduced > _RANK).sum(-1), 0)
    qubits = cut.dims == (2, 2)
    return EntanglementWitness(
        below,
        torch.log2(2 * below + 1),
        rank,
        concurrence(rho) if qubits else None,
        chsh_maximum(rho) if qubits else None,
    )


def negativity(rho: Tensor, dims: Sequence[int]) -> Tensor:
    """The negativity alone, [*B, d, d] -> [*B]; arguments and errors as of `entanglement_witness`."""
    cut = _cut(rho, dims)
    spectrum = torch.linalg.eigvalsh(cut.partial_transpose(rho, [0]))
    value: Tensor = -spectrum.clamp(max=0).sum(-1)
    return value


def concurrence(rho: Tensor) -> Tensor:
    """Concurrence of two qubits, [*B, 4, 4] -> [*B], 0 if and only if they are separable.

    The square roots of the eigenvalues of rho (Y Y) rho* (Y Y) are taken as singular values of one product of roots,
    so that none is the root of a difference.

    Raises:
        GeometryError: `rho` is no density matrix of two qubits.

    Source: Wootters 1998, Phys. Rev. Lett. 80, 2245.
    """
    HilbertSpace((2, 2)).require(require_density(rho))
    y = torch.tensor(PAULI[1], dtype=rho.dtype, device=rho.device)
    p, v = torch.linalg.eigh(rho)
    root = v * p.clamp(min=0).sqrt().unsqueeze(-2)
    s = torch.linalg.svdvals(root.mT @ torch.kron(y, y) @ root)
    value: Tensor = (2 * s[..., 0] - s.sum(-1)).clamp(min=0)
    return value


def chsh_maximum(rho: Tensor) -> Tensor:
    """The largest CHSH value of two qubits over all settings, [*B, 4, 4] -> [*B] in [0, 2 sqrt 2].

    Raises:
        GeometryError: `rho` is no density matrix of two qubits.

    Source: Horodecki, Horodecki and Horodecki 1995, Phys. Lett. A 200, 340.
    """
    HilbertSpace((2, 2)).require(require_density(rho))
    pauli = torch.tensor(PAULI, dtype=rho.dtype, device=rho.device)
    pairs = rho.reshape(*rho.shape[:-2], 2, 2, 2, 2)
    correlation = torch.einsum("...abcd,mca,ndb->...mn", pairs, pauli, pauli).real
    s = torch.linalg.svdvals(correlation)
    value: Tensor = 2 * (s[..., 0].square() + s[..., 1].square()).sqrt()
    return value


def _cut(rho: Tensor, dims: Sequence[int]) -> HilbertSpace:
    space = HilbertSpace(tuple(dims))
    if len(space.dims) < 2:
        raise GeometryError(f"entanglement of the one factor {tuple(dims)}", hint="name at least two factors")
    space.require(require_density(rho))
    return HilbertSpace((space.dims[0], space.dimension // space.dims[0]))
