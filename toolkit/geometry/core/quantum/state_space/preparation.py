"""States made of data: amplitudes, angles of qubits, thermal equilibrium."""

from __future__ import annotations

from math import isfinite
from typing import Literal, get_args

import torch
from torch import Tensor

from toolkit.errors import GeometryError, UnknownName
from toolkit.geometry.checking import require_finite
from toolkit.geometry.core.quantum.state_space.checks import require_hermitian

__all__ = ["Encoding", "prepare_state"]

Encoding = Literal["amplitude", "angle", "thermal"]


def prepare_state(x: Tensor, encoding: Encoding = "amplitude", *, beta: float = 1.0) -> Tensor:
    """A quantum state that holds `x`; differentiable in it.

    amplitude   x [*B, n] as the amplitudes of a ket [*B, d], d the next power of two, padded by 0 and normalised
    angle       x [*B, n] in radians: one qubit cos(x/2)|0> + sin(x/2)|1> for each entry, a ket [*B, 2^n]
    thermal     x [*B, d, d], a Hamiltonian: the density matrix exp(-beta x) / Z, [*B, d, d]

    Args:
        x: Real or complex; real for angles.
        encoding: One of the above.
        beta: The inverse temperature of a thermal state, in units of one over energy.

    Returns:
        A complex tensor of the precision of `x`.

    Raises:
        GeometryError: x is zero (no direction to normalise), complex angles, or a Hamiltonian that is not Hermitian.
        UnknownName: there is no such encoding.

    Source: Nielsen and Chuang 2010, Quantum Computation and Quantum Information, chapter 2.
    """
    if encoding not in get_args(Encoding):
        raise UnknownName("encoding", encoding, get_args(Encoding))
    if encoding == "thermal":
        return _thermal(x, beta)
    require_finite(x, "the data of a state")
    if x.ndim < 1 or not x.shape[-1]:
        raise GeometryError(f"data of shape {tuple(x.shape)} for a state", hint="give [*B, n] with n >= 1")
    return _amplitudes(x) if encoding == "amplitude" else _angles(x)


def _amplitudes(x: Tensor) -> Tensor:
    padded = torch.nn.functional.pad(x, (0, (1 << (x.shape[-1] - 1).bit_length()) - x.shape[-1]))
    scale = padded.detach().abs().amax(-1, keepdim=True)  # first, so that squares neither overflow nor vanish
    if not bool((scale > 0).all()):
        raise GeometryError("a vector of zeros has no direction to encode", hint="drop it or add an offset")
    scaled = padded / scale
    unit = scaled / torch.linalg.vector_norm(scaled, dim=-1, keepdim=True)
    value: Tensor = unit if unit.is_complex() else unit.to(unit.dtype.to_complex())
    return value


def _angles(x: Tensor) -> Tensor:
    if x.is_complex():
        raise GeometryError(f"angles of dtype {x.dtype}", hint="angles are real, in radians")
    ket = torch.ones(*x.shape[:-1], 1, dtype=x.dtype, device=x.device)
    for angle in x.unbind(-1):
        qubit = torch.stack([(angle / 2).cos(), (angle / 2).sin()], dim=-1)
        ket = torch.einsum("...i,...j->...ij", ket, qubit).flatten(-2)
    return ket.to(x.dtype.to_complex())


def _thermal(hamiltonian: Tensor, beta: float) -> Tensor:
    require_hermitian(hamiltonian, "the Hamiltonian")
    if not isfinite(beta):
        raise GeometryError(f"the inverse temperature {beta}", hint="take a large one for the ground state")
    wide = hamiltonian if hamiltonian.is_complex() else hamiltonian.to(hamiltonian.dtype.to_complex())
    ground = torch.linalg.eigvalsh(wide.detach())[..., 0 if beta >= 0 else -1, None, None]
    identity = torch.eye(wide.shape[-1], dtype=wide.dtype, device=wide.device)
    weight = torch.linalg.matrix_exp(-beta * (wide - ground * identity))  # the ground state weighs 1: no overflow
    value: Tensor = weight / weight.diagonal(dim1=-2, dim2=-1).sum(-1).real[..., None, None]
    return value
