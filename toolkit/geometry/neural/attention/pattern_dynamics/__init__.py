"""Patterns that form by themselves: reaction and diffusion, their stability, their branches, and how to steer them."""

from toolkit.geometry.neural.attention.pattern_dynamics.bifurcation import Branch, SpecialPoint, bifurcation_analysis
from toolkit.geometry.neural.attention.pattern_dynamics.control import (
    Control,
    ControlConstraints,
    pattern_control,
    riccati_gain,
)
from toolkit.geometry.neural.attention.pattern_dynamics.diffusion import reaction_diffusion
from toolkit.geometry.neural.attention.pattern_dynamics.reactions import (
    brusselator,
    fisher_kpp,
    gray_scott,
    schnakenberg,
)
from toolkit.geometry.neural.attention.pattern_dynamics.stability import (
    Stability,
    TuringThreshold,
    pattern_growth,
    stability_analysis,
    turing_threshold,
)

__all__ = [
    "Branch",
    "Control",
    "ControlConstraints",
    "SpecialPoint",
    "Stability",
    "TuringThreshold",
    "bifurcation_analysis",
    "brusselator",
    "fisher_kpp",
    "gray_scott",
    "pattern_control",
    "pattern_growth",
    "reaction_diffusion",
    "riccati_gain",
    "schnakenberg",
    "stability_analysis",
    "turing_threshold",
]
