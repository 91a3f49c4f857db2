"""Kets and density matrices of finite dimension: how they are made, moved, measured and told apart.

A ket is complex [*B, d], a density matrix complex [*B, d, d]. Where a function takes either, `density=True` says that
the last two axes are a matrix: the shape alone cannot tell a matrix from a batch of kets.
"""

from toolkit.geometry.core.quantum.state_space.distances import bures_distance, fidelity, fubini_study_distance
from toolkit.geometry.core.quantum.state_space.entanglement import (
    EntanglementWitness,
    concurrence,
    entanglement_witness,
    negativity,
)
from toolkit.geometry.core.quantum.state_space.entropy import compute_entropy
from toolkit.geometry.core.quantum.state_space.evolution import evolution_operator, evolve_state
from toolkit.geometry.core.quantum.state_space.measurement import Measurement, measure_observable
from toolkit.geometry.core.quantum.state_space.parametrised import (
    berry_curvature,
    berry_flux,
    fubini_study_metric,
    quantum_geometric_tensor,
)
from toolkit.geometry.core.quantum.state_space.preparation import prepare_state
from toolkit.geometry.core.quantum.state_space.spaces import HilbertSpace, density_matrix

__all__ = [
    "EntanglementWitness",
    "HilbertSpace",
    "Measurement",
    "berry_curvature",
    "berry_flux",
    "bures_distance",
    "compute_entropy",
    "concurrence",
    "density_matrix",
    "entanglement_witness",
    "evolution_operator",
    "evolve_state",
    "fidelity",
    "fubini_study_distance",
    "fubini_study_metric",
    "measure_observable",
    "negativity",
    "prepare_state",
    "quantum_geometric_tensor",
]
