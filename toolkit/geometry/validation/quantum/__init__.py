"""Checks of quantum states: normalisation, uncertainty, entanglement under local operations."""

from toolkit.geometry.validation.quantum.state import (
    check_entanglement_monotonicity,
    check_normalization,
    verify_uncertainty_relations,
)

__all__ = ["check_entanglement_monotonicity", "check_normalization", "verify_uncertainty_relations"]
