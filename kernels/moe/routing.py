"""Which experts answer: Gumbel-softmax straight through, and how evenly they are used.

In torch alone: there are as many numbers here as tokens times experts, and autograd's gradients are the exact ones.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Routing", "gumbel", "route"]


class Routing(NamedTuple):
    """What a router decides, as `kernels.moe.route` says."""

    chosen: Tensor
    gates: Tensor
    balance: Tensor


def gumbel(logits: Tensor, generator: torch.Generator | None) -> Tensor | None:
    """Noise whose addition makes the largest logit a draw from their softmax: -log of exponential variates."""
    if generator is None:
        return None
    drawn = torch.empty(logits.shape, dtype=_wide(logits), device=logits.device)
    return -drawn.exponential_(generator=generator).log()


def route(logits: Tensor, noise: Tensor | None, k: int, temperature: float, hard: bool) -> Routing:
    logits = logits.to(_wide(logits))
    noisy = logits if noise is None else logits + noise
    chosen = noisy.detach().topk(k, dim=1).indices
    warm = (noisy / temperature).softmax(1)
    soft = warm.gather(1, chosen)
    gates = soft + (1 / k - soft).detach() if hard else soft
    return Routing(chosen, gates, _balance(warm if noisy is logits and temperature == 1 else logits.softmax(1), chosen))


def _balance(probability: Tensor, chosen: Tensor) -> Tensor:
    """E Σ_e share_e mean_e: 1 where all are alike, E where one takes everything."""
    tokens, experts = probability.shape
    share = torch.nn.functional.one_hot(chosen.flatten(), experts).to(probability.dtype).sum(0)
    return experts / max(chosen.numel() * tokens, 1) * (share * probability.sum(0)).sum()


def _wide(logits: Tensor) -> torch.dtype:
    return torch.promote_types(logits.dtype, torch.float32)
