"""Cohomology of finite complexes, information flow on them, and long-run behaviour."""

from toolkit.geometry.core.patterns.cohomology.characteristic import (
    CharacteristicClasses,
    angle_defects,
    characteristic_classes,
    euler_number,
    lattice_chern_number,
)
from toolkit.geometry.core.patterns.cohomology.classes import CochainSpace, SimplicialCohomology
from toolkit.geometry.core.patterns.cohomology.cochains import (
    coboundary,
    cup_product,
    dec_masses,
    exterior_derivative,
    positions_of,
)
from toolkit.geometry.core.patterns.cohomology.complexes import from_attention, grid_torus
from toolkit.geometry.core.patterns.cohomology.ergodic import (
    MapReport,
    MarkovReport,
    birkhoff_average,
    ergodic_analysis,
    lyapunov_spectrum,
    markov_analysis,
)
from toolkit.geometry.core.patterns.cohomology.information_flow import (
    InformationFlow,
    attention_rollout,
    attention_stability,
    gaussian_transfer_entropy,
    information_flow_metrics,
    transfer_entropy,
)
from toolkit.geometry.core.patterns.cohomology.stability import PatternStability, pattern_stability_measures

__all__ = [
    "CharacteristicClasses",
    "CochainSpace",
    "InformationFlow",
    "MapReport",
    "MarkovReport",
    "PatternStability",
    "SimplicialCohomology",
    "angle_defects",
    "attention_rollout",
    "attention_stability",
    "birkhoff_average",
    "characteristic_classes",
    "coboundary",
    "cup_product",
    "dec_masses",
    "ergodic_analysis",
    "euler_number",
    "exterior_derivative",
    "from_attention",
    "gaussian_transfer_entropy",
    "grid_torus",
    "information_flow_metrics",
    "lattice_chern_number",
    "lyapunov_spectrum",
    "markov_analysis",
    "pattern_stability_measures",
    "positions_of",
    "transfer_entropy",
]
