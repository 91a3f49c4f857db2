"""Arithmetic in exact numbers: heights, iteration, zeta functions, residues."""

from toolkit.geometry.core.patterns.arithmetic.dynamics import (
    CanonicalHeight,
    Growth,
    Orbit,
    RationalMap,
    canonical_height,
    elliptic_doubling,
    growth_analysis,
    orbit_analysis,
)
from toolkit.geometry.core.patterns.arithmetic.heights import (
    arithmetic_height,
    local_heights,
    local_logarithms,
    quantized_height,
)
from toolkit.geometry.core.patterns.arithmetic.residues import crt_check, crt_matmul
from toolkit.geometry.core.patterns.arithmetic.zeta import (
    artin_mazur_reciprocal,
    dirichlet_l,
    ihara_reciprocal,
    l_function,
)

__all__ = [
    "CanonicalHeight",
    "Growth",
    "Orbit",
    "RationalMap",
    "arithmetic_height",
    "artin_mazur_reciprocal",
    "canonical_height",
    "crt_check",
    "crt_matmul",
    "dirichlet_l",
    "elliptic_doubling",
    "growth_analysis",
    "ihara_reciprocal",
    "l_function",
    "local_heights",
    "local_logarithms",
    "orbit_analysis",
    "quantized_height",
]
