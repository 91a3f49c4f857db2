"""The transfer matrix: imaginary time in slices, space on a grid, in one dimension."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import pi, sqrt
from typing import TypeAlias

import torch
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.checking import require_finite

__all__ = ["Box", "Insertion", "TransferMatrix", "kernel"]

Insertion: TypeAlias = tuple[Callable[[Tensor], Tensor], float]
"""A function of the coordinate [N] -> [N], and the imaginary time at which it stands."""

_AT_THE_WALL = 1e-8  # of the largest density: above it the box cuts the particle off


@dataclass(frozen=True)
class Box:
    """`points` equidistant coordinates from `low` to `high`."""

    low: float
    high: float
    points: int

    def __post_init__(self) -> None:
        if not self.low < self.high or self.points < 3:
            raise GeometryError(
                f"{self.points} points from {self.low} to {self.high}", hint="low < high, with at least 3 points"
            )

    @property
    def spacing(self) -> float:
        """The distance between neighbours."""
        return (self.high - self.low) / (self.points - 1)

    @property
    def coordinates(self) -> Tensor:
        """[N], float64."""
        return torch.linspace(self.low, self.high, self.points, dtype=torch.float64)


@dataclass(frozen=True)
class TransferMatrix:
    """The matrix of one slice by its eigenvalues and eigenvectors.

    T_ij = h sqrt(m / (2 pi hbar eps)) exp(-(m (x_i - x_j)^2 / (2 eps) + eps (V_i + V_j) / 2) / hbar), eps being the
    Euclidean time of a slice. The grid's error is spectrally small, since the integrands decay; that of the slices
    is of second order.

    Args:
        coordinates: [N].
        logs: [M], the logarithms of the eigenvalues above rounding, ascending.
        vectors: [N, M].
        slices: How many make the whole period.
        period: hbar beta.
    """

    coordinates: Tensor
    logs: Tensor
    vectors: Tensor
    slices: int
    period: float

    @classmethod
    def build(
        cls, heights: Callable[[Tensor], Tensor], mass: float, hbar: float, box: Box, beta: float, slices: int
    ) -> TransferMatrix:
        """The matrix for heights([N, 1]) -> [N] and the inverse temperature `beta`.

        Raises:
            GeometryError: the grid is too coarse for a slice, or the box cuts the particle off.
        """
        if slices < 1:
            raise GeometryError(f"{slices} slices", hint="at least one")
        eps, x = hbar * beta / slices, box.coordinates
        values, vectors = torch.linalg.eigh(_slice(heights(x.unsqueeze(-1)), x, mass, hbar, eps, box))
        held = values > values[-1] * box.points * torch.finfo(values.dtype).eps
        made = cls(x, values[held].log(), vectors[:, held], slices, hbar * beta)
        density = (made.vectors.square() * made.weights()).sum(-1)
        ends = float(torch.maximum(density[0], density[-1]) / density.max())
        if ends > _AT_THE_WALL:
            raise GeometryError(
                f"the particle is at the wall of its box with {ends:.3g} of the largest density",
                hint="widen the box, or the potential does not bind",
            )
        return made

    def weights(self) -> Tensor:
        """[M]: eigenvalues to the power of all slices, over the largest."""
        return ((self.logs - self.logs[-1]) * self.slices).exp()

    def partition_function(self) -> Tensor:
        """tr T^slices, []."""
        return require_finite((self.logs * self.slices).exp().sum(), "the partition function")

    def average(self, insertions: Sequence[Insertion]) -> Tensor:
        """The thermal average of the time-ordered product, []."""
        for _, tau in insertions:
            if not 0 <= tau <= self.period:
                raise GeometryError(f"the imaginary time {tau}", hint=f"times lie in [0, {self.period:.6g}]")
        relative = self.logs - self.logs[-1]
        product = torch.eye(len(relative), dtype=relative.dtype)
        now = 0.0
        for operator, tau in sorted(insertions, key=lambda pair: pair[1]):
            moved = (relative * self.slices * (tau - now) / self.period).exp().unsqueeze(-1) * product
            diagonal = require_finite(operator(self.coordinates), "an inserted operator").unsqueeze(-1)
            product, now = self.vectors.T @ (diagonal * self.vectors) @ moved, tau
        rest = (relative * self.slices * (self.period - now) / self.period).exp()
        return (rest * product.diagonal()).sum() / self.weights().sum()


def kernel(
    heights: Callable[[Tensor], Tensor],
    mass: float,
    hbar: float,
    box: Box,
    a: Tensor,
    b: Tensor,
    time: float,
    slices: int,
) -> Tensor:
    """<b| exp(-H time / hbar) |a> for a and b [*B, 1] -> [*B]; the ends need not lie on the grid."""
    if slices < 2:
        raise GeometryError(f"{slices} slices", hint="at least two, so that there is a point between the ends")
    eps, x = time / slices, box.coordinates
    inside = heights(x.unsqueeze(-1))
    step = _slice(inside, x, mass, hbar, eps, box)
    half = torch.exp(-eps * inside / (2 * hbar))

    def reach(end: Tensor) -> Tensor:  # [*B, N]
        width = (end - x).square() * mass / (2 * eps * hbar)
        factor = torch.exp(-eps * heights(end) / (2 * hbar)).unsqueeze(-1)
        return sqrt(mass / (2 * pi * hbar * eps)) * torch.exp(-width) * half * factor

    between = torch.linalg.matrix_power(step, slices - 2)
    return box.spacing * torch.einsum("...i,ij,...j->...", reach(b), between, reach(a))


def _slice(inside: Tensor, x: Tensor, mass: float, hbar: float, eps: float, box: Box) -> Tensor:
    width = sqrt(hbar * eps / mass)
    if width < 1.2 * box.spacing:  # the sum then differs from the integral by 2 exp(-2 pi^2 1.2^2) = 1e-12
        raise GeometryError(
            f"a slice spreads over {width:.3g}, less than 1.2 grid steps of {box.spacing:.3g}",
            hint="take more grid points or fewer slices",
        )
    lowest = float(inside.min())
    if eps * lowest / hbar < -600:  # exp of it would leave float64
        raise GeometryError(f"the potential falls to {lowest:.3g} in the box", hint="take more slices or a smaller box")
    exponent = mass * (x.unsqueeze(-1) - x).square() / (2 * eps) + eps * (inside.unsqueeze(-1) + inside) / 2
    return box.spacing / (width * sqrt(2 * pi)) * torch.exp(-exponent / hbar)
