"""Checks of patterns: stability in time, symmetry, scale invariance."""

from toolkit.geometry.validation.pattern.stability import (
    check_pattern_stability,
    check_scale_invariance,
    verify_symmetries,
)

__all__ = ["check_pattern_stability", "check_scale_invariance", "verify_symmetries"]
