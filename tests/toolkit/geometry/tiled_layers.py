"""Small layers of tiled attention in float64, and tokens for them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from toolkit.geometry.neural.attention import QuantumGeometricAttention
from toolkit.models.seeded import seeded
from toolkit.rng import torch_generator

TILED = ("dot", "metric", "fidelity", "fidelity_complex", "hyperbolic")
over_scores = pytest.mark.parametrize("score", TILED)
over_causal = pytest.mark.parametrize("causal", [False, True])

# float64 rounds at 1e-16; sums of a hundred terms of size 1 stay below
ROUNDING = 1e-13


def layer(score: str = "metric", seed: int = 0, **options: object) -> QuantumGeometricAttention:
    given = {"manifold_dim": 4, "tile_size": 4, "refine": 3, "score": score, **options}
    with seeded(seed):
        return QuantumGeometricAttention(16, 2, **given).double().eval()


def tokens(length: int = 32, seed: int = 0, batch: int = 2, size: float = 2.0) -> Tensor:
    generator = torch_generator(seed, "tokens", length)
    return size * torch.randn(batch, length, 16, generator=generator, dtype=torch.float64)


def in_plan(model: QuantumGeometricAttention, x: Tensor, plan: str, refine: int = 3, **options: object) -> Tensor:
    model.plan, model.refine = plan, refine
    with torch.no_grad():
        return model(x, **options)
