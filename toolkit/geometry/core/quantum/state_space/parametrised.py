"""The geometry of a state that depends on parameters: its metric, its curvature, its flux."""

from __future__ import annotations

import torch
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.checking import require_finite
from toolkit.geometry.types import Field

__all__ = ["berry_curvature", "berry_flux", "fubini_study_metric", "quantum_geometric_tensor"]


def quantum_geometric_tensor(state: Field, theta: Tensor) -> Tensor:
    """Q_ij = <d_i psi|(1 - |psi><psi|)|d_j psi> of the ray through `state`, at parameters `theta`.

    Norm and phase of the ket do not matter: Q belongs to the ray.

    Args:
        state: [n] -> complex [d], differentiable and mapped by torch.vmap.
        theta: [*B, n] real.

    Returns:
        Complex [*B, n, n], Hermitian and positive semidefinite. Its real part is the Fubini-Study metric.

    Raises:
        GeometryError: a ket of norm 0, or values that are not finite.

    Source: Provost and Vallee 1980, Commun. Math. Phys. 76, 289.
    """

    def one(point: Tensor) -> Tensor:
        ket, parts = state(point), torch.func.jacfwd(lambda at: torch.view_as_real(state(at)))(point)
        slopes = torch.complex(parts[:, 0], parts[:, 1])  # [d, n]; jacfwd differentiates real outputs only
        norm2 = ket.abs().square().sum()
        along = slopes.mH @ ket  # <d_i psi|psi>
        return slopes.mH @ slopes / norm2 - torch.outer(along, along.conj()) / norm2.square()

    flat = theta.reshape(-1, theta.shape[-1])
    q = torch.vmap(one)(flat)
    return require_finite(q.reshape(*theta.shape[:-1], *q.shape[1:]), "the quantum geometric tensor")


def fubini_study_metric(state: Field, theta: Tensor) -> Tensor:
    """Re Q, real [*B, n, n]; arguments and errors as of `quantum_geometric_tensor`."""
    return quantum_geometric_tensor(state, theta).real


def berry_curvature(state: Field, theta: Tensor) -> Tensor:
    """-2 Im Q, real and antisymmetric [*B, n, n]; arguments and errors as of `quantum_geometric_tensor`."""
    return -2 * quantum_geometric_tensor(state, theta).imag


def berry_flux(kets: Tensor) -> Tensor:
    """Berry flux through each plaquette of a grid of kets, with the sign of `berry_curvature`.

    The sum over a closed surface is 2 pi times an integer for any grid that is fine enough: every phase is gauge
    invariant and cut to (-pi, pi].

    Args:
        kets: [n1, n2, d] of any phase, or [n1, n2, d, m] for m bands together.

    Returns:
        Real [n1 - 1, n2 - 1]. For a torus, repeat the first row and column at the end.

    Raises:
        GeometryError: neighbouring kets are orthogonal, so that no phase lies between them.

    Source: Fukui, Hatsugai and Suzuki 2005, J. Phys. Soc. Jpn. 74, 1674.
    """
    frames = kets.unsqueeze(-1) if kets.ndim == 3 else kets

    def link(a: Tensor, b: Tensor) -> Tensor:
        determinant = torch.linalg.det(a.mH @ b)
        if determinant.numel() and not float(determinant.detach().abs().min()) > 1e-10:
            raise GeometryError(
                f"neighbouring kets overlap by {float(determinant.abs().min()):.3g}", hint="use a finer grid"
            )
        value: Tensor = determinant
        return value

    first = link(frames[:-1], frames[1:])  # along axis 0, [n1 - 1, n2]
    second = link(frames[:, :-1], frames[:, 1:])  # along axis 1, [n1, n2 - 1]
    loop = first[:, :-1] * second[1:] * first[:, 1:].conj() * second[:-1].conj()
    return -loop.angle()
