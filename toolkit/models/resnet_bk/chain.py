"""Tokens as sites of a chain: potentials in, the diagonal of its resolvent out.

For each head H is tridiagonal, its diagonal the tokens' potentials v, its off-diagonals the hopping t, and

    G = (H − E − iη)⁻¹,   features [Re G, Im G] of each site,

with an energy E and a broadening η of the head's own. |G| <= 1 / η. In units of η: u = (v − E) / η, w = (t / η)².
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from toolkit.models.resnet_bk.config import Config
from toolkit.models.resnet_bk.kept_sites import KeptSites
from toolkit.models.resnet_bk.operators import diagonal
from toolkit.models.resnet_bk.storage import recomputed, stored

__all__ = ["Chain"]

_BAND = 1.5
"""Energies begin within ± this: the bare chain has states within ± 2."""


class Chain(nn.Module):
    """From tokens (B, N, width) to features (B, N, 2 heads)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        heads = config.heads
        self.causal, self.clamp, self.clamp_features = (
            config.mode == "causal",
            config.potential_clamp,
            config.feature_clamp,
        )
        self.storage = config.storage
        self.potential = nn.Linear(config.width, heads)
        self.gate = nn.Linear(config.width, heads) if config.links == "learned" else None
        low, high = (torch.tensor(b).log().item() for b in (config.broadening_low, config.broadening_high))
        self.log_broadening = nn.Parameter(torch.linspace(low, high, heads))
        self.energy = nn.Parameter(torch.linspace(-_BAND, _BAND, heads)[torch.randperm(heads)])
        self.hopping = nn.Parameter(torch.ones(heads))
        self.watch: Callable[[Tensor], None] | None = None  # told of features before their clamp
        self.sites = KeptSites(config.width, config.kept_share, self.causal) if config.kept_share < 1 else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, 2 heads), in the weights' type under autocast too; and the share of positions that became sites."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(self.potential.weight.dtype)
            v = self.potential(x)
            if self.clamp is not None:
                v = v.clamp(-self.clamp, self.clamp)
            gate = None if self.gate is None else self.gate(x).sigmoid()
            if self.sites is None:
                return self._features(v, gate), x.new_ones(())
            chosen = self.sites(x)
            found = self._features(chosen.of(v), None if gate is None else chosen.of(gate))
            return chosen.spread(found), chosen.share

    def _features(self, v: Tensor, gate: Tensor | None) -> Tensor:
        """(B, n, heads) to (B, n, 2 heads)."""
        parameters = (self.energy, self.log_broadening, self.hopping)
        if self.storage == "float32":
            return self._resolvent(v, gate, *parameters)
        assert self.clamp is not None
        return recomputed(self._resolvent, v, self.clamp, gate, *parameters)

    def _resolvent(
        self, v: Tensor, gate: Tensor | None, energy: Tensor, log_broadening: Tensor, hopping: Tensor
    ) -> Tensor:
        broadening = log_broadening.exp()
        u, w = (v - energy) / broadening, (hopping / broadening).square().expand(v.shape)
        found = diagonal(u, w if gate is None else w * gate, causal=self.causal)
        found = (stored(found, 1.0) if self.storage == "int8" else found) / broadening[:, None]
        if self.watch is not None:
            self.watch(found.detach())
        if self.clamp_features is not None:
            found = found.clamp(-self.clamp_features, self.clamp_features)
        return found.flatten(2)
