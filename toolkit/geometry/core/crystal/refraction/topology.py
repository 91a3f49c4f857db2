"""Integers of bands: Zak phase, winding number, Chern number."""

from __future__ import annotations

from math import pi

import torch
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.core.crystal.refraction.bands import bloch_hamiltonian
from toolkit.geometry.core.quantum.state_space.parametrised import berry_flux
from toolkit.geometry.types import Crystal

__all__ = ["chern_number", "winding_number", "zak_phase"]


def zak_phase(crystal: Crystal, *, bands: int = 1, points: int = 200) -> float:
    """The Berry phase of the lowest `bands` of a chain once around its zone, in (-pi, pi].

    In the gauge in which atoms of a cell share its origin: H(k) is periodic, and the phase of a chain with inversion
    symmetry is 0 or pi.

    Raises:
        GeometryError: not one-dimensional, no gap above the bands, or errors of `bloch_hamiltonian`.

    Source: Zak 1989, Phys. Rev. Lett. 62, 2747.
    """
    frames = _frames(crystal, bands, points, 1)
    links = torch.linalg.det(frames.mH @ frames.roll(-1, 0))
    phase = float(-links.prod().angle())
    return pi if phase < -pi + 1e-9 else phase


def winding_number(crystal: Crystal, *, points: int = 200) -> int:
    """How often det h(k) turns around 0, for a chain whose first half of orbitals couples only to the second by h.

    Positive where the phase of h(k) grows with k.

    Raises:
        GeometryError: not one-dimensional, coupling within a half (no chiral symmetry), or a closed gap.

    Source: Asboth, Oroszlany and Palyi 2016, A Short Course on Topological Insulators, chapter 1.
    """
    h = bloch_hamiltonian(crystal, _zone(crystal, points, 1))
    half = h.shape[-1] // 2
    inside = float(torch.cat([h[..., :half, :half].flatten(), h[..., half:, half:].flatten()]).abs().max())
    if h.shape[-1] % 2 or inside > 1e-12 * float(h.abs().max()):
        raise GeometryError(f"coupling of {inside:.3g} within a half", hint="a winding needs chiral symmetry")
    determinant = torch.linalg.det(h[..., :half, half:])
    lowest = float(determinant.abs().min())
    if lowest < 1e-9 * float(determinant.abs().max()):
        raise GeometryError(f"det h falls to {lowest:.3g}: the gap is closed", hint="open the gap")
    return round(float((determinant.roll(-1, 0) / determinant).angle().sum()) / (2 * pi))


def chern_number(crystal: Crystal, *, bands: int = 1, points: int = 24) -> int:
    """The Chern number of the lowest `bands` together, with the sign of `berry_curvature`.

    Raises:
        GeometryError: not two-dimensional, no gap above the bands, or errors of `bloch_hamiltonian`.

    Source: Fukui, Hatsugai and Suzuki 2005, J. Phys. Soc. Jpn. 74, 1674.
    """
    frames = _frames(crystal, bands, points, 2)
    closed = torch.cat([frames, frames[:1]])
    return round(float(berry_flux(torch.cat([closed, closed[:, :1]], dim=1)).sum()) / (2 * pi))


def _zone(crystal: Crystal, points: int, dimension: int) -> Tensor:
    if crystal.lattice.dim != dimension or points < 4:
        raise GeometryError(
            f"{points} points around the zone of a crystal of dimension {crystal.lattice.dim}",
            hint=f"the dimension must be {dimension}, with at least 4 points",
        )
    steps = torch.arange(points, dtype=torch.float64) / points
    grid = torch.stack(torch.meshgrid(*[steps] * dimension, indexing="ij"), dim=-1)
    return grid @ crystal.lattice.reciprocal.vectors.double()


def _frames(crystal: Crystal, bands: int, points: int, dimension: int) -> Tensor:
    energies, vectors = torch.linalg.eigh(bloch_hamiltonian(crystal, _zone(crystal, points, dimension)))
    count = energies.shape[-1]
    if not 1 <= bands < count:
        raise GeometryError(f"the lowest {bands} of {count} bands", hint="a gap needs a band above it")
    gap = float((energies[..., bands] - energies[..., bands - 1]).min())
    if gap < 1e-9 * float(energies.abs().max()):
        raise GeometryError(f"the gap above band {bands} is {gap:.3g}", hint="take more bands together")
    value: Tensor = vectors[..., :bands]
    return value
