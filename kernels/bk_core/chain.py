"""What is inverted: chains of sites, one a row, each coupled to its neighbours."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

__all__ = ["Chain"]


@dataclass(frozen=True)
class Chain:
    """H − z for a batch of tridiagonal H; of the off-diagonals only products of opposite elements matter here.

    `potential` is (batch, n) and real. `coupling`, real, is upper[i] · lower[i]: one number for all links, or
    (1, n − 1) or (batch, n − 1). `energy` is z: one number, or complex (1,) or (batch,).
    """

    potential: Tensor
    coupling: Tensor | float
    energy: Tensor | complex

    def shift(self) -> Tensor:
        """Complex, (1,) or (batch,): z, NaN where Im z <= 0, as H may have no resolvent there."""
        if isinstance(self.energy, Tensor):
            return torch.where(self.energy.imag > 0, self.energy, complex("nan"))
        complex_ = self.potential.dtype.to_complex()
        return torch.full((1,), self.energy, dtype=complex_, device=self.potential.device)

    def diagonal(self) -> Tensor:
        """(batch, n): what stands on the diagonal of H − z."""
        return self.finite() - self.shift()[:, None]

    def finite(self) -> Tensor:
        """The potential, NaN where it is infinite."""
        return self.potential.mul(0).add_(self.potential)

    def links(self) -> Tensor:
        """(batch, n): the coupling of each site to its right neighbour, 0 for the last, which has none."""
        batch, n = self.potential.shape
        links = self.potential.new_zeros(batch, n)
        links[:, : n - 1] = self.coupling
        return links

    def rows(self, first: int, end: int) -> Chain:
        """The chains of some rows."""
        return replace(
            self,
            potential=self.potential[first:end],
            coupling=_rows(self.coupling, first, end),
            energy=_rows(self.energy, first, end),
        )


def _rows(values: Any, first: int, end: int) -> Any:
    return values[first:end] if isinstance(values, Tensor) and values.shape[0] > 1 else values
