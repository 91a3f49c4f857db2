"""How far the tiled answer may be from the exact one, and how far it is on sampled queries.

Of a query i let u be the share of unrefined tiles in the true mass and û that in the approximate one. Both lie in
[0, ε_i], and every partial average lies in the convex hull of the values. So |o_i − ô_i| ≤ ε_i · diam(V), where
2 max_j |v_j − v̄| is an upper bound of the diameter. In float32, SLACK · diam is added for rounding.

The bound is sound and loose: on tokens that have nothing to do with each other ε is near 1 until nearly all tiles are
refined. It says where work may be skipped; what the error is, the audit measures.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from toolkit.geometry.neural.attention.scores import Score
from toolkit.geometry.neural.attention.tiles import HIDDEN, AttentionState
from toolkit.rng import torch_generator

__all__ = ["SLACK", "Audit", "audit", "diameter", "exact_rows"]

SLACK = 1e-5

# Legend: G heads of all samples, N tokens with those filled up, A queries that are audited, D of a value


@dataclass(frozen=True)
class Audit:
    """Queries answered exactly as well, each in parts of the diameter of its head's values."""

    queries: Tensor
    """(A,) positions; those of all heads."""
    error: Tensor
    """(G, A), |o − ô| / diam(V)."""
    epsilon: Tensor
    """(G, A), what was promised."""

    @property
    def holds(self) -> bool:
        """No query is further off than promised, to the rounding of float32."""
        return bool((self.error <= self.epsilon + SLACK).all())


def diameter(state: AttentionState) -> Tensor:
    """(G, 1): no two values of a head are further apart; at most twice what the furthest two are."""
    v = state.v.flatten(1, 2)
    if state.valid is None:
        return _furthest(v - v.mean(1, keepdim=True))
    weight = state.valid.flatten(1).unsqueeze(-1)
    mean = (v * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp_min(1)
    return _furthest((v - mean) * weight)


def _furthest(apart: Tensor) -> Tensor:
    largest: Tensor = torch.linalg.vector_norm(apart, dim=-1).amax(1, keepdim=True)
    return 2 * largest


def exact_rows(score: Score, state: AttentionState, queries: Tensor, causal: bool) -> Tensor:
    """(G, A, D): dense attention of some queries, by their positions (A,)."""
    logits = score.logits(state.q.flatten(1, 2)[:, queries], state.k.flatten(1, 2))
    if causal:
        place = torch.arange(logits.shape[-1], device=logits.device)
        logits = logits + (place[None, :] > queries[:, None]).to(logits.dtype) * HIDDEN
    return torch.softmax(logits, -1) @ state.v.flatten(1, 2)


def audit(
    score: Score, state: AttentionState, out: Tensor, epsilon: Tensor, *, length: int, causal: bool, rows: int = 16,
    seed: int = 0,
) -> Audit:  # fmt: skip
    """Exact answers of some queries beside the tiled ones.

    Args:
        out: (G, T, B, D), the tiled answers.
        epsilon: (G · T, B).
        length: Queries from here on were filled up.
        rows: Queries that are drawn, by `seed`; all of them where there are no more.
    """
    generator = torch_generator(seed, "attention audit")
    queries = torch.randperm(length, generator=generator)[:rows].sort().values.to(out.device)
    found = out.flatten(1, 2)[:, queries]
    apart = torch.linalg.vector_norm(exact_rows(score, state, queries, causal) - found, dim=-1)
    promised = epsilon.reshape(out.shape[0], -1)[:, queries]
    return Audit(queries, apart / diameter(state).clamp_min(torch.finfo(out.dtype).tiny), promised)
