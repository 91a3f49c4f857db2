"""A sparse mixture of experts: a router names one or two for each token, and only those are computed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

from toolkit.models.exporting import exporting
from toolkit.models.resnet_bk.config import Config
from toolkit.models.resnet_bk.operators import autocast_to, mixture

__all__ = ["Mixed", "Mixture"]


class Mixed(NamedTuple):
    """What a mixture answers; `balance` is 1 where its experts are used evenly, their number where one does all."""

    out: Tensor
    balance: Tensor


class Mixture(nn.Module):
    """Experts of two layers with GELU between. Gates are the router's probabilities.

    Which experts a token gets depends on that token alone. `passes.torch_level.prune_experts` finds and shrinks it.
    Source: Shazeer et al. 2017, arXiv:1701.06538; Fedus, Zoph and Shazeer 2022, arXiv:2101.03961 (balance).
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.top_k = config.chosen
        self.router = nn.Linear(config.width, config.experts, bias=False)
        self.w_in = nn.Parameter(_drawn(config.experts, config.hidden, config.width))
        self.b_in = nn.Parameter(torch.zeros(config.experts, config.hidden))
        self.w_out = nn.Parameter(_drawn(config.experts, config.width, config.hidden))
        self.b_out = nn.Parameter(torch.zeros(config.experts, config.width))

    def forward(self, x: Tensor) -> Mixed:
        """Of (B, N, width)."""
        rows = x.flatten(0, 1)
        with torch.autocast(x.device.type, enabled=False):
            probability = self.router(rows.to(self.router.weight.dtype)).softmax(-1)
        if exporting():
            return Mixed(self._of_all(rows, probability).view(x.shape), probability.new_ones(()))
        gates, chosen = probability.topk(self.top_k, dim=-1)
        weights = (self.w_in, self.b_in, self.w_out, self.b_out)
        dtype = autocast_to(x.device) or rows.dtype
        out = mixture(rows.to(dtype), chosen, gates, *(w.to(dtype) for w in weights))
        return Mixed(out.view(x.shape), _balance(probability, chosen))

    def _of_all(self, rows: Tensor, probability: Tensor) -> Tensor:
        """The same as two layers, which hold all experts, and a mask between: what boards have operators for."""
        gates = probability * _first(probability, self.top_k)
        hidden = gelu(linear(rows, self.w_in.flatten(0, 1), self.b_in.flatten()))
        heard = (hidden.view(-1, *self.b_in.shape) * gates[..., None]).flatten(1)
        return linear(heard, self.w_out.permute(1, 0, 2).flatten(1)) + gates @ self.b_out


def _drawn(*shape: int) -> Tensor:
    return torch.randn(shape).mul(shape[-1] ** -0.5)


def _first(probability: Tensor, k: int) -> Tensor:
    """(tokens, E): 1 at the k largest, of equal ones the first."""
    found = torch.zeros_like(probability)
    for _ in range(k):
        largest = (probability - 2 * found).argmax(-1, keepdim=True)
        found = found + (largest == torch.arange(probability.shape[1], device=largest.device)).to(found.dtype)
    return found


def _balance(probability: Tensor, chosen: Tensor) -> Tensor:
    """E Σ_e share_e mean_e; the gradient goes through the mean probability."""
    count = probability.shape[1]
    share = torch.zeros_like(probability).scatter(1, chosen, 1.0 / chosen.shape[1]).mean(0)
    return count * (share * probability.mean(0)).sum()
