"""Adaptive computation time: each token is computed until its halting probabilities add up to one.

Step t gives a state s_t and p_t = sigmoid(halt · s_t). A token halts at the first step T with Σ p >= 1 − ε, or at the
last; its answer is Σ_{t<T} p_t s_t + R s_T with the remainder R = 1 − Σ_{t<T} p_t, and its ponder cost T + R, whose
gradient is that of R. Nothing is kept from one forward to the next. All tokens halted, the loop ends.
Source: Graves 2016, arXiv:1603.08983.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from toolkit.models.exporting import exporting

__all__ = ["Pondered", "Pondering"]

_EPSILON = 0.01


class Pondered(NamedTuple):
    """The answer (B, N, width), and of this forward: each token's cost T + R, and steps T, (B, N) both."""

    out: Tensor
    cost: Tensor
    steps: Tensor


class Pondering(nn.Module):
    """Applies a step up to `most` times, halting for each token by itself."""

    def __init__(self, width: int, most: int) -> None:
        super().__init__()
        self.most = most
        self.halt = nn.Linear(width, 1)
        nn.init.zeros_(self.halt.weight)
        nn.init.constant_(self.halt.bias, 1.0)  # at first a token takes two steps

    def forward(self, state: Tensor, step: Callable[[Tensor], Tensor]) -> Pondered:
        """Of (B, N, width)."""
        out, spent = torch.zeros_like(state), torch.zeros_like(state[..., 0])
        cost, steps, running = spent, spent, torch.ones_like(spent)
        for t in range(self.most):
            state = step(state)
            p = torch.sigmoid(self.halt(state)[..., 0])
            halts = running if t == self.most - 1 else running * (spent + p >= 1 - _EPSILON).to(p.dtype)
            remainder = 1 - spent
            weight = halts * remainder + (running - halts) * p
            out = out + weight[..., None] * state
            steps = steps + running
            cost = cost + halts * remainder
            spent, running = spent + (running - halts) * p, running - halts
            if not exporting() and not bool(running.any()):
                break
        return Pondered(out, cost + steps, steps)
