"""The score "born": weights |⟨q̂|k̂⟩|² over their sum, without an exponential; exact in time linear in the length.

|⟨q̂|k̂⟩|² = ⟨vec(q̂q̂ᵀ), vec(k̂k̂ᵀ)⟩, so that sums over keys are gathered once: of every tile of keys the product of
features and [values, 1], and of causal attention those of the tiles before, to which the own tile is added token by
token. O(N m² D) instead of O(N²): no tile is approximated, and none refined.

Source: Kacham et al. 2024, arXiv:2310.01655 (polynomial kernels in blocks); the Born rule gives the score its name.
"""

from __future__ import annotations

import torch
from torch import Tensor

from toolkit.geometry.neural.attention.scores import Score
from toolkit.geometry.neural.attention.tiles import AttentionState

__all__ = ["born", "born_weights"]

_NOTHING = 1e-9  # of a sum of weights: a query orthogonal to all keys gets 0


def born(score: Score, state: AttentionState, causal: bool) -> Tensor:
    """(G, T, B, D), the exact answer of every query."""
    v = torch.cat([state.v, torch.ones_like(state.v[..., :1])], -1)
    if state.valid is not None:
        v = v * state.valid.unsqueeze(-1)
    sums = score.features(state.k).transpose(-1, -2) @ v  # (G, T, F, D + 1)
    if not causal:
        total = state.f @ sums.sum(1, keepdim=True)
        return _divided(total)
    place = torch.arange(state.tiles, device=v.device)
    earlier = (place[None, :] < place[:, None]).to(v.dtype)
    before = (earlier @ sums.flatten(2)).reshape(sums.shape)
    return _divided(state.f @ before + _within(score, state) @ v)


def born_weights(score: Score, state: AttentionState, causal: bool) -> Tensor:
    """(G, N, N), rows that sum to 1: the same in dense form."""
    q, k = state.q.flatten(1, 2), state.k.flatten(1, 2)
    seen = (q[..., :-1] @ k[..., :-1].transpose(-1, -2)).square()
    if state.valid is not None:
        seen = seen * state.valid.flatten(1, 2).unsqueeze(1)
    if causal:
        seen = seen.tril()
    return seen / seen.sum(-1, keepdim=True).clamp_min(_NOTHING)


def _within(score: Score, state: AttentionState) -> Tensor:
    """(G, T, B, B): of tokens of the own tile up to the query's."""
    overlap = state.q[..., :-1] @ state.k[..., :-1].transpose(-1, -2)
    place = torch.arange(state.tile, device=overlap.device)
    return overlap * overlap * (place[None, :] <= place[:, None]).to(overlap.dtype)


def _divided(mixed: Tensor) -> Tensor:
    """Values over the sum of the weights, which is the last of them."""
    return mixed[..., :-1] / mixed[..., -1:].clamp_min(_NOTHING)
