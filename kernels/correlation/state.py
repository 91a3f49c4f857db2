"""Correlation of data that come in pieces, on one machine or on several: pieces are added, states are merged."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.correlation.columns import moments, operators

__all__ = ["CorrelationState"]


@dataclass(frozen=True)
class CorrelationState:
    """What correlations need to know of all the rows so far; a value, and as large however many rows there were.

    >>> state = CorrelationState.of(first)
    >>> for piece in others:
    ...     state = state.update(piece)
    >>> state.value()

    Attributes:
        rows: How many there were.
        mean: (D,) float64, of each column.
        comoments: (D, D) float64: Σ (x_i − mean_i)(x_j − mean_j) over the rows.
        dtype: Of the first piece; the correlations are given in it.

    Not differentiable. Source: Chan, Golub, LeVeque 1979, "Updating formulae and a pairwise algorithm for computing
    sample variances".
    """

    rows: int
    mean: Tensor
    comoments: Tensor
    dtype: torch.dtype

    @classmethod
    def of(cls, x: Tensor) -> CorrelationState:
        """The state of one piece, (T, D) floating point with T >= 1.

        Raises:
            ValueError: `x` is no matrix, or has no row.
            TypeError: the elements are no floating point numbers.
            KernelUnavailable: KERNELS_FORM names a form that does not run here.
        """
        if x.ndim != 2 or not x.shape[0]:
            raise ValueError(f"a piece must be (T>=1, D), got {tuple(x.shape)}")
        if not x.is_floating_point():
            raise TypeError(f"correlations are of floating point numbers, got {x.dtype}")
        mean, found = operators.comoments(x)
        return cls(x.shape[0], mean.double(), found.double(), x.dtype)

    def update(self, x: Tensor) -> CorrelationState:
        """With the rows of `x` as well; raises as `of` and `merge` do."""
        return self.merge(CorrelationState.of(x))

    def merge(self, other: CorrelationState) -> CorrelationState:
        """The state of the rows of both.

        Raises:
            ValueError: they have unequal numbers of columns, or lie on different devices.
        """
        if (self.mean.shape, self.mean.device) != (other.mean.shape, other.mean.device):
            raise ValueError(
                f"{len(self.mean)} columns on {self.mean.device} and {len(other.mean)} on {other.mean.device}:"
                " states of the same columns on one device can be merged"
            )
        rows, between = self.rows + other.rows, other.mean - self.mean
        apart = torch.outer(between, between) * (self.rows * (other.rows / rows))
        mean = self.mean + between * (other.rows / rows)
        return CorrelationState(rows, mean, self.comoments + other.comoments + apart, self.dtype)

    def value(self) -> Tensor:
        """(D, D) as `correlation` of all the rows would give.

        Raises:
            ValueError: there was but one row.
        """
        if self.rows < 2:
            raise ValueError("correlations need at least two rows, there was one")
        return moments.correlation_of(self.comoments)[0].to(self.dtype)
