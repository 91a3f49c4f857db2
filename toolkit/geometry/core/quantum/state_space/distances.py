"""How far apart two states are, without losing digits or gradients where they meet."""

from __future__ import annotations

import torch
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.core.quantum.state_space.checks import require_density, require_ket

__all__ = ["bures_distance", "fidelity", "fubini_study_distance"]


def fidelity(a: Tensor, b: Tensor, *, density: bool = False) -> Tensor:
    """|<a|b>|^2 of kets [*B, d], or (tr sqrt(sqrt(a) b sqrt(a)))^2 of density matrices [*B, d, d]; [*B] in [0, 1].

    Raises:
        GeometryError: one of them is no state, or their dimensions differ.

    Source: Jozsa 1994; Nielsen and Chuang 2010, section 9.2.2.
    """
    _same_space(a, b)
    if density:
        value: Tensor = torch.linalg.svdvals(_root(a).mH @ _root(b)).sum(-1).square()
        return value
    return _overlap(a, b).abs().square()


def fubini_study_distance(a: Tensor, b: Tensor) -> Tensor:
    """The angle between two rays, kets [*B, d] -> [*B] in [0, pi / 2]; differentiable, with finite gradient at 0.

    The sine is the norm of the part of b that is orthogonal to a: acos(|<a|b>|) would lose half the digits of small
    angles and have an infinite gradient at 0.

    Raises:
        GeometryError: one of them is no ket, or their dimensions differ.
    """
    _same_space(a, b)
    overlap = _overlap(a, b)
    apart = b - overlap.unsqueeze(-1) * a
    return torch.atan2(torch.linalg.vector_norm(apart, dim=-1), overlap.abs())


def bures_distance(a: Tensor, b: Tensor) -> Tensor:
    """sqrt(2 - 2 sqrt F) of density matrices [*B, d, d] -> [*B] in [0, sqrt 2].

    Computed as the smallest Frobenius distance between square roots of a and b, so that small distances keep their
    digits.

    Raises:
        GeometryError: one of them is no density matrix, or their dimensions differ.

    Source: Bures 1969; Uhlmann 1976.
    """
    _same_space(a, b)
    left, right = _root(a), _root(b)
    u, _, vh = torch.linalg.svd(right.mH @ left)
    value: Tensor = torch.linalg.matrix_norm(left - right @ (u @ vh))
    return value


def _overlap(a: Tensor, b: Tensor) -> Tensor:
    return (require_ket(a).conj() * require_ket(b)).sum(-1)


def _root(rho: Tensor) -> Tensor:
    p, v = torch.linalg.eigh(require_density(rho))
    value: Tensor = v * p.clamp(min=0).sqrt().unsqueeze(-2)
    return value


def _same_space(a: Tensor, b: Tensor) -> None:
    if a.shape[-1] != b.shape[-1]:
        raise GeometryError(
            f"states of dimensions {a.shape[-1]} and {b.shape[-1]}", hint="only states of one space can be compared"
        )
