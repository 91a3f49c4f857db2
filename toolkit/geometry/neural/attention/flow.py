"""Heat flow along attention: further explicit Euler steps x ← (1 − h) x + h P x after the first x ← P v.

P are the attention weights, rows that sum to one, so every answer stays in the convex hull of the values, and with
0 ≤ h ≤ 1 no step is unstable. Many steps make all tokens alike; the Dirichlet energy says how far that has gone.

Source: Chamberlain et al. 2021, arXiv:2106.10934 (attention as diffusion, here with weights that stay the same).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["FlowMetrics", "dirichlet_energy", "flow"]

Step = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class FlowMetrics:
    """The Dirichlet energy of the answers after the first step and after the last; equal where there is one."""

    dirichlet_before: float
    dirichlet_after: float


def flow(step: Step, values: Tensor, steps: int, share: float) -> Tensor:
    """((1 − h) I + h P)^(steps − 1) P applied to `values`, of any shape that `step` keeps.

    Args:
        step: P, linear.
        steps: 1 is plain attention.
        share: h.
    """
    x = step(values)
    for _ in range(steps - 1):
        x = (1 - share) * x + share * step(x)
    return x


def dirichlet_energy(step: Step, x: Tensor, measure: Tensor | None = None) -> Tensor:
    """½ Σ_ij μ_i P_ij |x_i − x_j|² / Σ_i μ_i, of each head: (G, T, B, D) to (G,).

    |x_i − x_j|² is multiplied out, so that P is applied to x and |x|² alone.

    Args:
        measure: μ (G, T, B), positive weights of tokens; 1 where None. Energy never grows along the flow where μ is
            the stationary law of a reversible P.
    """
    square = (x * x).sum(-1, keepdim=True)
    local = square - 2 * (x * step(x)).sum(-1, keepdim=True) + step(square)
    weight = torch.ones_like(local) if measure is None else measure.unsqueeze(-1)
    return 0.5 * (local * weight).flatten(1).sum(1) / weight.flatten(1).sum(1)
