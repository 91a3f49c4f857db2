"""The diagonal of the Green's function of tridiagonal Hamiltonians, in O(n), with its exact gradient in O(n)."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.bk_core import doubling, operators
from kernels.bk_core.checks import refuse_bad_input
from kernels.exporting import exporting

__all__ = ["bk_core", "bk_features"]


def bk_core(
    v: Tensor,
    *,
    z: complex | Tensor,
    upper: float | Tensor = -1.0,
    lower: float | Tensor | None = None,
    diagonal: float | Tensor = 2.0,
    blend: float | None = None,
) -> Tensor:
    """Diagonal of the Green's function, G[i, i] of G = (H0 + diag(v) − z)⁻¹, for a batch of tridiagonal H0.

    As they stand, `upper`, `lower` and `diagonal` make H0 the negative Laplacian of a lattice with closed ends. H is to
    be similar to a symmetric matrix: upper[i] · lower[i] >= 0. Then |G[i, i]| <= 1 / Im z, nothing overflows, and the
    relative error is at most 4 eps (1 + ‖H − z‖ / Im z). Numbers may be tensors of no dimension, whose gradients are
    wanted; the gradient (the first) with respect to all inputs is exact, and counts every dG[i, i] / dv[j].

    Args:
        v: (batch, n) float32 or float64: the potential.
        z: The energy, Im z > 0: one for all, or a complex tensor () or (batch,).
        upper: Elements (i, i + 1) of H0: one for all, or (n − 1,) or (batch, n − 1).
        lower: Elements (i + 1, i), likewise; as `upper` where it is not given.
        diagonal: Elements (i, i): one for all, or (n,) or (batch, n).
        blend: Not the gradient: the published surrogate, which takes dG[i, i] / dv[i] for
            −(1 − blend) G² − blend / G² and every other derivative, also those of the other inputs, for 0.

    Returns:
        (batch, n) complex64 or complex128; NaN in rows where `v` holds NaN or infinity, or where z is a tensor on
        another device than the CPU (to look at it there would wait for the device) and Im z <= 0.

    Raises:
        ValueError: Im z <= 0; shapes or devices do not fit; upper · lower is a negative number.
        TypeError: `v` is not float32 or float64, another tensor is not of its precision, or z is real.
        MemoryError: result and workspace do not fit the device.
        KernelUnavailable: KERNELS_FORM names a form that does not run here.

    Source: Godfrin 1991, J. Phys.: Condens. Matter 3, 7843 (recursions from both ends); README.md has the gradient.
    """
    refuse_bad_input(v, z, upper, lower, diagonal)
    if exporting():
        return torch.complex(*_parts(v, z, upper, lower, diagonal))
    green = _green(v.detach() if blend is not None else v, z, upper, lower, diagonal)
    return green if blend is None else _with_surrogate_gradient(green.detach(), v, blend)


def bk_features(
    v: Tensor,
    *,
    z: complex | Tensor,
    upper: float | Tensor = -1.0,
    lower: float | Tensor | None = None,
    diagonal: float | Tensor = 2.0,
    blend: float | None = None,
) -> Tensor:
    """`bk_core` as real numbers, which is what a model that leaves torch must call: ONNX knows no complex ones.

    Args:
        v, z, upper, lower, diagonal, blend: As `bk_core` takes them; in a model to be exported to ONNX z is a number.

    Returns:
        (batch, n, 2) in the dtype of `v`: the real and the imaginary part of each element of the diagonal.
    """
    if not exporting():
        return torch.view_as_real(bk_core(v, z=z, upper=upper, lower=lower, diagonal=diagonal, blend=blend))
    refuse_bad_input(v, z, upper, lower, diagonal)
    return torch.stack(_parts(v, z, upper, lower, diagonal), -1)


def _green(
    v: Tensor, z: complex | Tensor, upper: float | Tensor, lower: float | Tensor | None, diagonal: float | Tensor
) -> Tensor:
    n = v.shape[1]
    coupling, (potential, energy) = _coupling(upper, lower), _on_the_diagonal(v, z, diagonal)
    couplings = energies = None
    if isinstance(coupling, Tensor):
        couplings, coupling = coupling.expand(v.shape[0] if coupling.ndim == 2 else 1, n - 1), 0.0
    if isinstance(energy, Tensor):
        energies, energy = energy.reshape(-1), 0j
    return operators.bk_core(potential, couplings, energies, coupling, energy.real, energy.imag)


def _parts(
    v: Tensor, z: complex | Tensor, upper: float | Tensor, lower: float | Tensor | None, diagonal: float | Tensor
) -> tuple[Tensor, Tensor]:
    """The same in real arithmetic: the real and the imaginary part."""
    potential, energy = _on_the_diagonal(v, z, diagonal)
    if isinstance(energy, Tensor):
        return doubling.bk_core(
            potential, _coupling(upper, lower), energy.real.reshape(-1, 1), energy.imag.reshape(-1, 1)
        )
    return doubling.bk_core(potential, _coupling(upper, lower), energy.real, energy.imag)


def _coupling(upper: float | Tensor, lower: float | Tensor | None) -> float | Tensor:
    """Of the off-diagonals only the products of opposite elements matter to the diagonal of the resolvent."""
    return upper * (upper if lower is None else lower)


def _on_the_diagonal(v: Tensor, z: complex | Tensor, diagonal: float | Tensor) -> tuple[Tensor, complex | Tensor]:
    """The potential and the energy, with `diagonal` in the one where it varies, and in the other where it does not."""
    if isinstance(diagonal, Tensor) and diagonal.ndim:
        return v + diagonal, z
    energy = z - diagonal
    return v, energy if isinstance(energy, Tensor) else complex(energy)


def _with_surrogate_gradient(green: Tensor, v: Tensor, blend: float) -> Tensor:
    slope = -(1 - blend) * green.square() - blend / green.square()
    return green + slope * (v - v.detach())
