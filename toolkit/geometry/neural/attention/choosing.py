"""Which tiles of keys each tile of queries looks at token by token; the others are seen as their means.

A tile of queries always looks into its own. The R − 1 others are those that hold most of the mass that may be:

    priority[a, b] = logsumexp over queries i of tile a of (S_ib + δ_ib − logsumexp over tiles of S_i)

with S the coarse logits, of a whole tile at its centre, and δ the slack of the score. Where attention is causal, b goes
over tiles up to a. A choice by a tile's own queries tells the first of them what the last look for: of a text that is
read as it comes, i goes over the first query of the tile and the B − 1 before it instead.

Sources: Zeng et al. 2022, arXiv:2207.10284 (refine the blocks with large coarse coefficients); Yuan et al. 2025,
arXiv:2502.11089 (compression and selection).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from toolkit.geometry.neural.attention.tiles import HIDDEN
from toolkit.models.exporting import exporting

__all__ = ["Choice", "by_ranks", "by_topk", "given", "hidden_tiles", "just_before", "log_sum_exp", "priority"]

_LEAST = -80.0
"""What is as far below the largest adds nothing; a CPU takes up to seventy times as long where an exponential is too
small to be a normal number."""

# Legend: n tiles of queries, R tiles refined, T tiles of keys, B tokens in a tile


@dataclass(frozen=True)
class Choice:
    """The tiles of keys besides their own that n tiles of queries look into."""

    count: int
    """R - 1"""

    index: Tensor | None
    """(n, R − 1) int64; None where `one_hot` says it."""
    one_hot: Tensor | None
    """(n, R − 1, T)"""
    hidden: Tensor
    """(n, R − 1), HIDDEN where what was chosen is not to be seen; there were not enough others."""
    unseen: Tensor
    """(n, 1, T), HIDDEN for tiles that are refined or not to be seen."""


def hidden_tiles(tiles: int, causal: bool, like: Tensor) -> Tensor:
    """(T, T): what tile b of keys loses before queries of tile a see its mean; its own, and those of the future."""
    place = torch.arange(tiles, device=like.device)
    hidden = place[None, :] >= place[:, None] if causal else place[None, :] == place[:, None]
    return hidden.to(like.dtype) * HIDDEN


def just_before(tiles: int, near: int, like: Tensor) -> Tensor:
    """(T, T): 1 where tile b of keys is one of the `near` before tile a of queries."""
    place = torch.arange(tiles, device=like.device)
    apart = place[:, None] - place[None, :]
    return ((apart > 0) & (apart <= near)).to(like.dtype)


def priority(coarse: Tensor, slack: Tensor, hidden: Tensor, own: Tensor) -> Tensor:
    """(n, T): how much of the mass of some query may be in a tile; its own comes last, as it is taken anyway.

    Args:
        coarse, slack: (n, B, T).
        hidden: (n, T), HIDDEN for tiles that are not to be seen and for the own.
        own: (n, T), 1 for the own tile.
    """
    share = coarse - log_sum_exp(coarse, -1) if exporting() else coarse.log_softmax(-1)
    return log_sum_exp(share + slack, 1).squeeze(1) + hidden + own * HIDDEN


def log_sum_exp(x: Tensor, dim: int) -> Tensor:
    """The logarithm of the sum of exponentials, the axis kept; in operators that every runtime has."""
    top = x.amax(dim, keepdim=True)
    below = x - top
    if not exporting():
        below = below.clamp_min(_LEAST)
    return top + below.exp().sum(dim, keepdim=True).log()


def by_topk(wanted: Tensor, count: int, hidden: Tensor) -> Choice:
    """The `count` tiles of highest priority, by the operator TopK."""
    return given(wanted.topk(count, dim=-1).indices, count, hidden)


def given(index: Tensor, count: int, hidden: Tensor) -> Choice:
    """The tiles (n, R − 1) that somebody has chosen, `count` for each."""
    unseen = hidden.scatter(-1, index, HIDDEN)
    return Choice(count, index, None, hidden.gather(-1, index), unseen.unsqueeze(1))


def by_ranks(wanted: Tensor, count: int, hidden: Tensor) -> Choice:
    """The same tiles in comparisons and sums: for runtimes that have no TopK, where there are few tiles.

    A tile's rank is how many come before it: those of higher priority, and equal ones with a lower number.
    """
    before = (wanted.unsqueeze(-2) > wanted.unsqueeze(-1)).to(wanted.dtype)
    equal = (wanted.unsqueeze(-2) == wanted.unsqueeze(-1)).to(wanted.dtype)
    place = torch.arange(wanted.shape[-1], device=wanted.device)
    earlier = (place[None, :] < place[:, None]).to(wanted.dtype)
    rank = (before + equal * earlier).sum(-1)  # (n, T)
    ranks = torch.arange(count, device=wanted.device, dtype=wanted.dtype)[:, None]
    apart = rank.unsqueeze(1) - ranks
    one_hot = (1 - apart * apart).clamp_min(0)  # (n, R - 1, T), of whole numbers
    chosen = one_hot.sum(1)
    unseen = hidden * (1 - chosen) + HIDDEN * chosen
    return Choice(count, None, one_hot, (one_hot * hidden.unsqueeze(1)).sum(-1), unseen.unsqueeze(1))
