"""How a pattern answers to small pushes under its dynamics."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import jacfwd

from toolkit.geometry.checking import require_finite, require_square
from toolkit.geometry.core.patterns.cohomology.ergodic import lyapunov_spectrum
from toolkit.geometry.integrators import rk4_step
from toolkit.geometry.types import Field

__all__ = ["PatternStability", "pattern_stability_measures"]


@dataclass(frozen=True)
class PatternStability:
    """Stability of a pattern under dx/dt = f(x).

    Args:
        spectral_abscissa: The largest real part of the Jacobian's eigenvalues: the growth rate in the long run.
        numerical_abscissa: The largest eigenvalue of 1/2 (J + J^T): the growth rate at the first instant. Above the
            spectral one, pushes grow before they decay.
        return_time: 1 / |spectral_abscissa| if the pattern is stable, else infinite.
        lyapunov: [n], exponents along the orbit from the pattern, descending; at a fixed point the real parts.
        stable: spectral_abscissa < 0.
    """

    spectral_abscissa: float
    numerical_abscissa: float
    return_time: float
    lyapunov: Tensor
    stable: bool


def pattern_stability_measures(pattern: Tensor, dynamics: Field, *, dt: float = 0.05,
                               steps: int = 400) -> PatternStability:  # fmt: skip
    """Growth rates of small pushes.

    Args:
        pattern: x, [n]; flatten what has more axes.
        dynamics: f, [n] -> [n], differentiable.
        dt: The step of the orbit that `lyapunov` follows.
        steps: How many.

    Raises:
        GeometryError: the Jacobian or the orbit is not finite.

    Source: Trefethen & Embree 2005, "Spectra and Pseudospectra", chapter 14.
    """
    require_finite(pattern, "the pattern")
    slope = require_square(jacfwd(dynamics)(pattern), "the Jacobian")
    abscissa = float(torch.linalg.eigvals(slope).real.max())
    first = float(torch.linalg.eigvalsh(0.5 * (slope + slope.T))[-1])
    along = lyapunov_spectrum(lambda x: rk4_step(dynamics, x, dt), pattern[None], steps=steps, warmup=0) / dt
    return PatternStability(abscissa, first, 1 / -abscissa if abscissa < 0 else float("inf"), along, abscissa < 0)
