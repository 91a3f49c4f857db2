"""One block: norm, experts, chains, projection, each added to what it read."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from toolkit.models.blueprints.sizes import length_of
from toolkit.models.norm import Norm
from toolkit.models.resnet_bk.chain import Chain
from toolkit.models.resnet_bk.config import Config
from toolkit.models.resnet_bk.mixture import Mixture
from toolkit.models.resnet_bk.multi_scale import down, up

__all__ = ["Block", "Passed"]


class Passed(NamedTuple):
    """What leaves a block, and what the loss asks of it: how even its experts, how dense its sites."""

    x: Tensor
    balance: Tensor
    density: Tensor


class Block(nn.Module):
    """x + h + project(features of chains of h), h the experts' answer to the normalised x."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.causal = config.mode == "causal"
        self.norm = Norm(config.width)
        self.mixture = Mixture(config)
        self.chain_norm = Norm(config.width)
        self.chains = nn.ModuleList(Chain(config) for _ in range(config.scales))
        self.project = nn.Linear(2 * config.heads * config.scales, config.width)

    def forward(self, x: Tensor) -> Passed:
        """Of (B, N, width)."""
        h, balance = self.mixture(self.norm(x))
        sites = self.chain_norm(x + h)
        found, densities = [], []
        for scale, chain in enumerate(self.chains):
            features, density = chain(down(sites, 2**scale)) if scale else chain(sites)
            found.append(up(features, length_of(x), 2**scale, causal=self.causal) if scale else features)
            densities.append(density)
        mixed = self.project(torch.cat(found, -1))
        return Passed(x + h + mixed, balance, torch.stack(densities).mean())
