"""Checks of metrics and of flows."""

from toolkit.geometry.validation.geometric.flow import (
    check_energy_monotonicity,
    check_long_time_existence,
    verify_maximum_principle,
)
from toolkit.geometry.validation.geometric.metric import (
    check_curvature_bounds,
    check_positive_definite,
    verify_compatibility,
)

__all__ = [
    "check_curvature_bounds",
    "check_energy_monotonicity",
    "check_long_time_existence",
    "check_positive_definite",
    "verify_compatibility",
    "verify_maximum_principle",
]
