"""Energy bands: tight binding, and plane waves in a weak potential."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.checking import require_finite
from toolkit.geometry.types import Crystal, Lattice

__all__ = ["Bands", "band_structure", "bloch_hamiltonian", "finite_chain", "plane_wave_bands"]


@dataclass(frozen=True)
class Bands:
    """Energies along a path of wave vectors.

    Args:
        k: [*B, d], in units of one over length.
        energies: [*B, N], ascending.
        vectors: [*B, N, N], eigenvectors as columns.
    """

    k: Tensor
    energies: Tensor
    vectors: Tensor


def band_structure(crystal: Crystal, kpath: Tensor) -> Bands:
    """Tight-binding bands of `crystal.hoppings` at the wave vectors `kpath` [*B, d]; differentiable.

    Raises:
        GeometryError: there are no hoppings, or they are not Hermitian: t(-R) must be the adjoint of t(R).

    Source: Ashcroft and Mermin 1976, chapter 10.
    """
    energies, vectors = torch.linalg.eigh(bloch_hamiltonian(crystal, kpath))
    return Bands(kpath, energies, vectors)


def bloch_hamiltonian(crystal: Crystal, k: Tensor) -> Tensor:
    """H(k) = sum_R t(R) exp(i k.R), complex [*B, N, N], periodic in the reciprocal lattice; errors as above."""
    hoppings = crystal.hoppings
    d, n = crystal.lattice.dim, len(crystal.positions)
    if not hoppings:
        raise GeometryError("a crystal without hoppings has no bands", hint="give Crystal(hoppings={R: [N, N]})")
    require_finite(k, "a wave vector")
    if k.ndim < 1 or k.shape[-1] != d:
        raise GeometryError(f"wave vectors of shape {tuple(k.shape)}", hint=f"give [*B, {d}]")
    for cell, hop in hoppings.items():
        back = hoppings.get(tuple(-c for c in cell))
        if len(cell) != d or tuple(hop.shape) != (n, n):
            raise GeometryError(
                f"the hopping to {cell} comes as {tuple(hop.shape)}", hint=f"give {d} counts: [{n}, {n}]"
            )
        require_finite(hop, f"the hopping to {cell}")
        difference = float("inf") if back is None else float((hop - back.mH).detach().abs().max())
        if difference > 1e-12 * max(float(hop.detach().abs().max()), 1e-300):
            raise GeometryError(
                f"the hopping to {cell} differs from the adjoint of its opposite by {difference:.3g}",
                hint="H is Hermitian only with t(-R) = t(R)†",
            )
    cells = torch.tensor(list(hoppings), dtype=k.dtype)
    phases = torch.exp(1j * (k @ (cells @ crystal.lattice.vectors.to(k.dtype)).T))  # [*B, R]
    return torch.einsum("...r,rab->...ab", phases, torch.stack(list(hoppings.values())).to(phases.dtype))


def plane_wave_bands(
    lattice: Lattice, potential: Mapping[tuple[int, ...], complex], kpath: Tensor, *, cutoff: int = 4, mass: float = 1.0
) -> Bands:
    """Bands of a particle in a weak periodic potential, by the central equation; hbar = 1.

    Args:
        lattice: Of dimension d.
        potential: Fourier coefficients V_G by integer d-tuple; V_-G is the conjugate of V_G.
        kpath: [*B, d].
        cutoff: Reciprocal vectors with counts up to this are kept: (2 cutoff + 1)^d plane waves.
        mass: > 0.

    Raises:
        GeometryError: the potential is not real, or cutoff or mass is out of range.

    Source: Ashcroft and Mermin 1976, chapter 8.
    """
    if cutoff < 1 or not mass > 0:
        raise GeometryError(f"cutoff {cutoff} and mass {mass}", hint="cutoff >= 1, mass > 0")
    for g, value in potential.items():
        off = abs(potential.get(tuple(-c for c in g), 0) - complex(value).conjugate())
        if len(g) != lattice.dim or not off <= 1e-12:
            raise GeometryError(f"the coefficient {value} at {g}", hint="V_-G must be the finite conjugate of V_G")
    require_finite(kpath, "a wave vector")
    counts = list(product(range(-cutoff, cutoff + 1), repeat=lattice.dim))
    waves = torch.tensor(counts, dtype=kpath.dtype) @ lattice.reciprocal.vectors.to(kpath.dtype)
    coupling = [[potential.get(tuple(a - b for a, b in zip(r, c, strict=True)), 0) for c in counts] for r in counts]
    kinetic = (kpath.unsqueeze(-2) + waves).square().sum(-1) / (2 * mass)
    matrix = torch.tensor(coupling, dtype=kpath.dtype.to_complex()) + torch.diag_embed(kinetic)
    energies, vectors = torch.linalg.eigh(matrix)
    return Bands(kpath, energies, vectors)


def finite_chain(crystal: Crystal, cells: int) -> Tensor:
    """The Hamiltonian of `cells` cells of a one-dimensional crystal with open ends, complex [cells N, cells N].

    Raises:
        GeometryError: the crystal is not one-dimensional, or there is no cell; errors of `bloch_hamiltonian`.
    """
    if crystal.lattice.dim != 1 or cells < 1:
        raise GeometryError(
            f"{cells} cells of a crystal of dimension {crystal.lattice.dim}", hint="a chain is one-dimensional"
        )
    bloch_hamiltonian(crystal, torch.zeros(1, dtype=torch.float64))  # checks the hoppings
    assert crystal.hoppings is not None
    n = len(crystal.positions)
    chain = torch.zeros(cells * n, cells * n, dtype=torch.complex128)
    for (step,), hop in crystal.hoppings.items():
        for cell in range(max(0, -step), min(cells, cells - step)):
            chain[cell * n : (cell + 1) * n, (cell + step) * n : (cell + step + 1) * n] += hop
    return chain
