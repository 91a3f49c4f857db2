"""What an observable shows: mean, variance, outcomes and how likely they are."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.core.quantum.state_space.checks import require_hermitian, require_state
from toolkit.geometry.core.quantum.state_space.spaces import density_matrix

__all__ = ["Measurement", "measure_observable"]


class Measurement(NamedTuple):
    """What measuring an observable gives.

    Args:
        mean: [*B].
        variance: [*B], >= 0.
        outcomes: [*B, d], the eigenvalues, ascending; an eigenvalue of multiplicity m stands there m times.
        probabilities: [*B, d], one for each eigenvector; those of equal outcomes add up.
    """

    mean: Tensor
    variance: Tensor
    outcomes: Tensor
    probabilities: Tensor


def measure_observable(state: Tensor, observable: Tensor, *, density: bool = False) -> Measurement:
    """Statistics of `observable` in `state`; mean and variance are differentiable in both.

    Args:
        state: Ket [*B, d], or density matrix [*B, d, d] with `density`.
        observable: [*B, d, d], Hermitian.
        density: Whether `state` is a density matrix.

    Raises:
        GeometryError: the observable is not Hermitian, the state is none, or they differ in dimension.

    Source: Nielsen and Chuang 2010, section 2.2.5.
    """
    require_state(state, density=density)
    require_hermitian(observable)
    if observable.shape[-1] != state.shape[-1]:
        raise GeometryError(
            f"an observable of dimension {observable.shape[-1]} on a state of dimension {state.shape[-1]}",
            hint="both live in one space",
        )
    rho = state if density else density_matrix(state)
    a = observable.to(rho.dtype)
    mean = torch.einsum("...ij,...ji->...", rho, a).real
    off = a - mean[..., None, None] * torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    if density:
        variance = torch.einsum("...ij,...jk,...ki->...", off, rho, off).real
    else:  # a sum of squares, which keeps its digits near eigenstates
        variance = torch.einsum("...ij,...j->...i", off, state).abs().square().sum(-1)
    outcomes, vectors = torch.linalg.eigh(a.detach())
    likely = torch.einsum("...ia,...ij,...ja->...a", vectors.conj(), rho, vectors).real.clamp(min=0)
    return Measurement(mean, variance.clamp(min=0), outcomes.expand(likely.shape), likely)
