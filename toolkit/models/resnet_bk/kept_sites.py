"""Learned sparsity: some positions become sites of the chain, the others take what is known around them.

What is left out is not computed: the chain has as many sites as are kept.
 - Causal: a position is kept where its own score is positive, and others hold what the last kept one before them found
   (zeros before the first). Ranking scores among each other would tell a token of later ones. Rows keep different
   numbers; the chain is as long as the longest.
 - Both sides: the ⌈share · N⌉ highest scores are kept, and between two of them is interpolated on a line.

What a kept site says is weighed with the sigmoid of its score, so that scores learn. No ranking fixes the causal share:
a term of the loss steers it, (share − kept)², with the gradient of the mean sigmoid behind what is kept.
Source: Raposo et al. 2024, arXiv:2404.02258 (which tokens are computed is learned; threshold for causal use).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from statistics import NormalDist

import torch
from torch import Tensor, nn

from toolkit.models.blueprints.sizes import length_of
from toolkit.models.exporting import exporting

__all__ = ["Chosen", "KeptSites"]


@dataclass(frozen=True)
class Chosen:
    """Which positions of (B, N) are sites: `positions` (B, n) in rising order, of which causal rows may hold spare ones
    at the end. `share` is what the loss steers."""

    positions: Tensor
    weight: Tensor
    left: Tensor
    right: Tensor
    ratio: Tensor
    share: Tensor

    def of(self, values: Tensor) -> Tensor:
        """(B, N, features) at the sites: (B, n, features)."""
        return values.gather(1, self.positions[..., None].expand(-1, -1, values.shape[2]))

    def spread(self, found: Tensor) -> Tensor:
        """(B, n, features) of sites for every position: (B, N, features)."""
        found = found * self.weight[..., None]
        padded = torch.cat((torch.zeros_like(found[:, :1]), found), 1)  # index 0: nothing is known yet
        return torch.lerp(_at(padded, self.left), _at(padded, self.right), self.ratio[..., None])


class KeptSites(nn.Module):
    """Scores positions and chooses. At first about `share` of them are kept, if tokens are normalised."""

    def __init__(self, width: int, share: float, causal: bool) -> None:
        super().__init__()
        self.share, self.causal = share, causal
        self.score = nn.Linear(width, 1)
        nn.init.normal_(self.score.weight, std=width**-0.5)
        nn.init.constant_(self.score.bias, NormalDist().inv_cdf(share))

    def forward(self, x: Tensor) -> Chosen:
        """Of (B, N, width)."""
        score = self.score(x)[..., 0]
        return self._causal(score) if self.causal else self._both_sides(score)

    def _causal(self, score: Tensor) -> Chosen:
        batch, n = score.shape[0], length_of(score)
        kept = score > 0
        place = torch.arange(n, device=score.device).expand(batch, n)
        count = kept.cumsum(1)
        sites = n if exporting() else max(int(count[:, -1].max()), 1)
        order = torch.where(kept, place, place + n).sort(1).values[:, :sites] % n
        weight, soft = torch.sigmoid(score.gather(1, order)), torch.sigmoid(score).mean()
        share = soft + (kept.to(score.dtype).mean() - soft).detach()
        return Chosen(order, weight, count, count, torch.zeros_like(score), share)

    def _both_sides(self, score: Tensor) -> Chosen:
        batch, n = score.shape[0], length_of(score)
        order = score.topk(ceil(self.share * n), 1).indices.sort(1).values
        kept = torch.zeros_like(score, dtype=torch.int64).scatter(1, order, 1)
        last = length_of(order)
        left = kept.cumsum(1)
        right = (left + 1 - kept).clamp(max=last)
        left = left.clamp(min=1)
        a, b = order.gather(1, left - 1), order.gather(1, right - 1)
        place = torch.arange(n, device=score.device).expand(batch, n)
        ratio = (place - a).to(score.dtype) / (b - a).clamp(min=1)
        weight = torch.sigmoid(score.gather(1, order))
        return Chosen(order, weight, left, right, ratio.clamp(0, 1), score.new_full((), last / n))


def _at(values: Tensor, index: Tensor) -> Tensor:
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[2]))
