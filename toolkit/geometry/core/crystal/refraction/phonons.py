"""Small vibrations of a crystal."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.checking import require_finite
from toolkit.geometry.types import Crystal

__all__ = ["Phonons", "phonon_modes"]


@dataclass(frozen=True)
class Phonons:
    """Vibrations at given wave vectors.

    Args:
        frequencies: [*B, N d], sqrt |eigenvalue|, in the order of ascending eigenvalues.
        imaginary: bool [*B, N d]: the eigenvalue is negative, so the displacement grows instead of oscillating.
        vectors: [*B, N d, N d], polarisations as columns, atoms first.
        acoustic_residual: The largest force on an atom, for a unit shift of the whole crystal, before any correction.
    """

    frequencies: Tensor
    imaginary: Tensor
    vectors: Tensor
    acoustic_residual: float


def phonon_modes(crystal: Crystal, q: Tensor, *, acoustic_sum: Literal["report", "enforce"] = "report") -> Phonons:
    """Frequencies of D(q) = sum_R Phi(R) exp(i q.R) / sqrt(m m') at the wave vectors `q` [*B, d].

    Args:
        crystal: With masses and force constants.
        q: In units of one over length.
        acoustic_sum: "enforce" corrects the constant of each atom on itself so that a shift of the whole crystal
            costs nothing; "report" only says by how much it does.

    Raises:
        GeometryError: masses or force constants are missing, not positive, or not symmetric:
            Phi(-R) must be the transpose of Phi(R).

    Source: Ashcroft and Mermin 1976, chapter 22; Born and Huang 1954.
    """
    if crystal.masses is None or not crystal.force_constants:
        raise GeometryError("a crystal without masses or force constants", hint="give both to Crystal")
    if not bool((crystal.masses > 0).all()):
        raise GeometryError(f"a mass of {float(crystal.masses.min()):.3g}", hint="masses are > 0")
    d, n = crystal.lattice.dim, len(crystal.positions)
    require_finite(q, "a wave vector")
    if q.ndim < 1 or q.shape[-1] != d:
        raise GeometryError(f"wave vectors of shape {tuple(q.shape)}", hint=f"give [*B, {d}]")
    constants = {cell: _checked(crystal, cell) for cell in crystal.force_constants}
    origin = (0,) * d
    zero = torch.zeros(n * d, n * d, dtype=q.dtype)
    total = torch.stack(list(constants.values())).sum(0).reshape(n * d, n, d).sum(1)  # forces for a unit shift
    if acoustic_sum == "enforce":
        own = constants.get(origin, zero).clone()
        for atom in range(n):
            rows = slice(atom * d, (atom + 1) * d)
            own[rows, rows] -= (total[rows] + total[rows].T) / 2
        constants[origin] = own
    cells = torch.tensor(list(constants), dtype=q.dtype)
    phases = torch.exp(1j * (q @ (cells @ crystal.lattice.vectors.to(q.dtype)).T))
    dynamical = torch.einsum("...r,rab->...ab", phases, torch.stack(list(constants.values())).to(phases.dtype))
    roots = crystal.masses.to(q.dtype).sqrt().repeat_interleave(d)
    squares, vectors = torch.linalg.eigh(dynamical / (roots.unsqueeze(-1) * roots))
    rounding = n * d * torch.finfo(squares.dtype).eps * float(squares.detach().abs().max())
    return Phonons(squares.abs().sqrt(), squares < -rounding, vectors, float(total.detach().abs().max()))


def _checked(crystal: Crystal, cell: tuple[int, ...]) -> Tensor:
    """Phi(R) as a matrix [N d, N d]."""
    assert crystal.force_constants is not None
    d, n = crystal.lattice.dim, len(crystal.positions)
    phi, back = crystal.force_constants[cell], crystal.force_constants.get(tuple(-c for c in cell))
    if len(cell) != d or tuple(phi.shape) != (n, d, n, d):
        raise GeometryError(f"force constants to {cell} come as {tuple(phi.shape)}", hint=f"give {(n, d, n, d)}")
    matrix = require_finite(phi, f"the force constants to {cell}").reshape(n * d, n * d)
    difference = float("inf") if back is None else float((matrix - back.reshape(n * d, n * d).T).detach().abs().max())
    if difference > 1e-9 * max(float(matrix.detach().abs().max()), 1e-300):
        raise GeometryError(
            f"force constants to {cell} differ from the transpose of their opposite by {difference:.3g}",
            hint="action equals reaction only with Phi(-R) = Phi(R)^T",
        )
    return matrix
