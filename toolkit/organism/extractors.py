"""What a component is beside its neighbours: functions of a SpatialContext that change nothing."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean, pstdev
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from toolkit.organism.comonad import SpatialContext

__all__ = ["attention_coherence", "behavioral_divergence", "gradient_rank", "relative_fitness"]

T = TypeVar("T")
Floats = NDArray[np.float64]
_NO_SPREAD = 1e-12


def _fitness(component: Any) -> float:
    return float(component.fitness)


def relative_fitness(context: SpatialContext[T], of: Callable[[T], float] = _fitness) -> float:
    """(f - mean) / standard deviation of the neighbours; 0 with fewer than two, or where those are all alike."""
    others = [of(neighbor) for neighbor in context.neighbors()]
    if len(others) < 2:
        return 0.0
    mean = fmean(others)
    spread = pstdev(others, mean)
    return (of(context.extract()) - mean) / spread if spread >= _NO_SPREAD else 0.0


def behavioral_divergence(context: SpatialContext[T], of: Callable[[T], Floats]) -> Floats:
    """(m,) behaviour less the neighbours' mean; zeros where there are no neighbours."""
    own = np.asarray(of(context.extract()), np.float64)
    others = [np.asarray(of(neighbor), np.float64) for neighbor in context.neighbors()]
    divergence: Floats = own - np.mean(others, axis=0) if others else np.zeros_like(own)
    return divergence


def gradient_rank(context: SpatialContext[T], of: Callable[[T], float]) -> float:
    """Share of the neighbours below the focus, equals counted half; 0.5 where there are none."""
    own, others = of(context.extract()), [of(neighbor) for neighbor in context.neighbors()]
    if not others:
        return 0.5
    return (sum(other < own for other in others) + 0.5 * sum(other == own for other in others)) / len(others)


def attention_coherence(context: SpatialContext[T], of: Callable[[T], Floats]) -> float:
    """Cosine of the focus' attention profile and the mean of its neighbours'; 0 where either is zero or missing."""
    others = [np.asarray(of(neighbor), np.float64) for neighbor in context.neighbors()]
    if not others:
        return 0.0
    own, mean = np.asarray(of(context.extract()), np.float64), np.mean(others, axis=0)
    norms = float(np.linalg.norm(own) * np.linalg.norm(mean))
    return float(own @ mean) / norms if norms > 0 else 0.0
