"""Composite systems: factors, partial traces and partial transposes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.core.quantum.state_space.checks import require_ket

__all__ = ["HilbertSpace", "density_matrix"]


@dataclass(frozen=True)
class HilbertSpace:
    """The tensor product of factors of these dimensions, the first being the slowest: |q0 q1> = kron(q0, q1)."""

    dims: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.dims or any(d < 1 for d in self.dims):
            raise GeometryError(f"factors of dimensions {self.dims}", hint="give at least one factor, each >= 1")

    @property
    def dimension(self) -> int:
        """The product of the factors."""
        return prod(self.dims)

    def partial_trace(self, rho: Tensor, keep: Collection[int]) -> Tensor:
        """The state of the factors in `keep`, in their order: [*B, d, d] -> [*B, d', d']."""
        kept, traced = self._split(keep)
        batch, count = rho.shape[:-2], len(self.dims)
        wide = self._factored(rho)
        lead = len(batch)
        order = [*kept, *(count + i for i in kept), *traced, *(count + i for i in traced)]
        moved = wide.permute(*range(lead), *(lead + i for i in order))
        size, rest = prod(self.dims[i] for i in kept), prod(self.dims[i] for i in traced)
        return moved.reshape(*batch, size, size, rest, rest).diagonal(dim1=-2, dim2=-1).sum(-1)

    def partial_transpose(self, rho: Tensor, systems: Collection[int]) -> Tensor:
        """rho [*B, d, d] with the rows and columns of the factors in `systems` exchanged."""
        chosen, _ = self._split(systems)
        wide, count, lead = self._factored(rho), len(self.dims), rho.ndim - 2
        order = [i + count * (i in chosen) for i in range(count)] + [
            i + count * (i not in chosen) for i in range(count)
        ]
        return wide.permute(*range(lead), *(lead + i for i in order)).reshape(rho.shape)

    def require(self, rho: Tensor) -> Tensor:
        """`rho` as it is, if its last two axes are of this space.

        Raises:
            GeometryError: they are not.
        """
        if rho.ndim < 2 or tuple(rho.shape[-2:]) != (self.dimension, self.dimension):
            raise GeometryError(
                f"an operator of shape {tuple(rho.shape)} on factors {self.dims}",
                hint=f"its last two axes must both be {self.dimension}",
            )
        return rho

    def _factored(self, rho: Tensor) -> Tensor:
        return self.require(rho).reshape(*rho.shape[:-2], *self.dims, *self.dims)

    def _split(self, systems: Collection[int]) -> tuple[list[int], list[int]]:
        if unknown := sorted(set(systems) - set(range(len(self.dims)))):
            raise GeometryError(f"factor {unknown[0]} of {len(self.dims)}", hint="factors are counted from 0")
        return sorted(set(systems)), [i for i in range(len(self.dims)) if i not in systems]


def density_matrix(ket: Tensor) -> Tensor:
    """|ket><ket|, [*B, d] -> [*B, d, d].

    Raises:
        GeometryError: the norm is not 1.
    """
    require_ket(ket)
    return torch.einsum("...i,...j->...ij", ket, ket.conj())
