"""Hamiltonian systems: energies, their motion, and steps that keep the symplectic form."""

from toolkit.geometry.neural.flow.hamiltonian.integrators import (
    implicit_midpoint,
    leapfrog,
    leapfrog_step,
    midpoint_step,
    yoshida4,
    yoshida4_step,
)
from toolkit.geometry.neural.flow.hamiltonian.systems import (
    Hamiltonian,
    Mechanical,
    compute_hamiltonian,
    geodesic_hamiltonian,
    hamilton_equations,
    poisson_bracket,
    symplectic_form,
    symplectic_matrix,
)

__all__ = [
    "Hamiltonian",
    "Mechanical",
    "compute_hamiltonian",
    "geodesic_hamiltonian",
    "hamilton_equations",
    "implicit_midpoint",
    "leapfrog",
    "leapfrog_step",
    "midpoint_step",
    "poisson_bracket",
    "symplectic_form",
    "symplectic_matrix",
    "yoshida4",
    "yoshida4_step",
]
