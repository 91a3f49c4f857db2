"""Path integrals: closed forms for quadratic potentials, transfer matrices and split operators for the others."""

from toolkit.geometry.core.quantum.path_integral.effective import (
    effective_action,
    functional_determinant_ratio,
    legendre_effective_action,
)
from toolkit.geometry.core.quantum.path_integral.integral import PathIntegral
from toolkit.geometry.core.quantum.path_integral.transfer import Box

__all__ = [
    "Box",
    "PathIntegral",
    "effective_action",
    "functional_determinant_ratio",
    "legendre_effective_action",
]
