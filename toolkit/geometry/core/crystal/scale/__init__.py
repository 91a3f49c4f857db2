"""What changes with scale and what does not: restriction maps, renormalisation, exponents, persistent cohomology.

"Scale cohomology" has no standard meaning: what is built is a system of scales with restriction maps between them, and
the persistent cohomology of a filtration.
"""

from toolkit.geometry.core.crystal.scale.anomalies import WeylFermion, anomaly_polynomial, plane_anomaly
from toolkit.geometry.core.crystal.scale.connection import ScaleConnection, gaussian_smooth, scale_connection
from toolkit.geometry.core.crystal.scale.feigenbaum import doubling_operator, feigenbaum_constants
from toolkit.geometry.core.crystal.scale.fixed_points import FixedPoint, fixed_points
from toolkit.geometry.core.crystal.scale.invariants import (
    Exponent,
    box_dimension,
    hurst_exponent,
    scale_invariants,
    tail_exponent,
)
from toolkit.geometry.core.crystal.scale.persistence import (
    Bar,
    Filtration,
    persistent_cohomology,
    rips_filtration,
)
from toolkit.geometry.core.crystal.scale.renormalization import (
    RGFlow,
    block_spins,
    empirical_coupling,
    ising_chain,
    ising_correlation_length,
    migdal_kadanoff,
    renormalization_flow,
    wilson_fisher_beta,
)
from toolkit.geometry.core.crystal.scale.symmetry import symmetry_defect

__all__ = [
    "Bar",
    "Exponent",
    "Filtration",
    "FixedPoint",
    "RGFlow",
    "ScaleConnection",
    "WeylFermion",
    "anomaly_polynomial",
    "block_spins",
    "box_dimension",
    "doubling_operator",
    "empirical_coupling",
    "feigenbaum_constants",
    "fixed_points",
    "gaussian_smooth",
    "hurst_exponent",
    "ising_chain",
    "ising_correlation_length",
    "migdal_kadanoff",
    "persistent_cohomology",
    "plane_anomaly",
    "renormalization_flow",
    "rips_filtration",
    "scale_connection",
    "scale_invariants",
    "symmetry_defect",
    "tail_exponent",
    "wilson_fisher_beta",
]
