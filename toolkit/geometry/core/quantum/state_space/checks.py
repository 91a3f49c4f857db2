"""What the functions of this package ask of a ket, an observable and a density matrix."""

from __future__ import annotations

import torch
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.checking import require_finite, require_square

__all__ = ["TOLERANCE", "require_density", "require_hermitian", "require_ket", "require_state"]

TOLERANCE = 1e-9  # of a trace, a norm or an eigenvalue: far above rounding, far below what a wrong state shows


def require_ket(ket: Tensor, what: str = "the ket") -> Tensor:
    """`ket` [*B, d] as it is: complex, finite, of norm 1.

    Raises:
        GeometryError: with the dtype, the entry or the norm.
    """
    _require_complex(ket, what)
    if ket.ndim < 1 or not ket.shape[-1]:
        raise GeometryError(f"{what} comes as {tuple(ket.shape)}", hint="it must be [*B, d] with d >= 1")
    require_finite(ket, what)
    norms = torch.linalg.vector_norm(ket.detach(), dim=-1).flatten()
    if norms.numel() and float((norms - 1).abs().max()) > _allowed(ket):
        worst = float(norms[(norms - 1).abs().argmax()])
        raise GeometryError(f"{what} has norm {worst:.9g}", hint="divide it by its norm, or use prepare_state")
    return ket


def require_hermitian(observable: Tensor, what: str = "the observable") -> Tensor:
    """`observable` [*B, d, d] as it is: complex or real, finite, equal to its adjoint.

    Raises:
        GeometryError: with the shape, or the largest difference from the adjoint.
    """
    require_square(observable, what)
    detached = observable.detach()
    size = max(float(detached.abs().max()), 1.0) if detached.numel() else 1.0
    difference = float((detached - detached.mH).abs().max()) if detached.numel() else 0.0
    if difference > _allowed(observable) * size:
        raise GeometryError(
            f"{what} is not Hermitian: it differs from its adjoint by {difference:.3g}", hint="take (A + A†) / 2"
        )
    return observable


def require_density(rho: Tensor, what: str = "the density matrix") -> Tensor:
    """`rho` [*B, d, d] as it is: complex, Hermitian, of trace 1, without negative eigenvalues.

    Raises:
        GeometryError: with the trace or the smallest eigenvalue.
    """
    _require_complex(rho, what)
    require_hermitian(rho, what)
    detached = rho.detach()
    traces = detached.diagonal(dim1=-2, dim2=-1).sum(-1).real.flatten()
    if traces.numel() and float((traces - 1).abs().max()) > _allowed(rho):
        worst = float(traces[(traces - 1).abs().argmax()])
        raise GeometryError(f"{what} has trace {worst:.9g}", hint="divide it by its trace")
    lowest = float(torch.linalg.eigvalsh(detached).min()) if traces.numel() else 0.0
    if lowest < -_allowed(rho):
        raise GeometryError(f"{what} has the eigenvalue {lowest:.3g}", hint="probabilities cannot be negative")
    return rho


def require_state(state: Tensor, *, density: bool) -> Tensor:
    """`state` as it is, a density matrix or a ket as `density` says."""
    return require_density(state) if density else require_ket(state)


def _require_complex(values: Tensor, what: str) -> None:
    if not values.is_complex():
        raise GeometryError(f"{what} is {values.dtype}", hint="amplitudes are complex: use .to(torch.complex128)")


def _allowed(values: Tensor) -> float:
    return TOLERANCE if torch.finfo(values.dtype).eps < 1e-12 else 1e-4  # single precision rounds that much
