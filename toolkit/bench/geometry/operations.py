"""The core operations of the geometry library: what should take less than a millisecond once it is warm."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch

from toolkit.bench.geometry.forms import STEPS
from toolkit.bench.tiled_attention.speed import tokens
from toolkit.geometry.core.patterns.riemannian import RiemannianManifold
from toolkit.geometry.core.patterns.riemannian.metrics import sphere
from toolkit.geometry.neural.attention import QuantumGeometricAttention
from toolkit.geometry.neural.attention.refining import Rows, coarse_logits
from toolkit.geometry.neural.flow.geometric_flow import ConformalMetric, compute_ricci_tensor, flow_step
from toolkit.geometry.types import GridField
from toolkit.models.seeded import seeded
from toolkit.rng import torch_generator

__all__ = ["OPERATIONS"]

Operation = Callable[[], object]


def _pairing() -> Operation:
    points, u, v = torch.rand(3, 256, 2, generator=torch_generator(0, "pairing"), dtype=torch.float64) + 0.5
    return partial(RiemannianManifold(sphere(), 2, recorded=True).metric_tensor, points, (u, v))


def _ricci_step() -> Operation:
    u = 0.1 * torch.rand(64, 64, generator=torch_generator(0, "ricci"), dtype=torch.float64)
    metric = ConformalMetric(GridField(u, (0.1, 0.1), (True, True)))
    return lambda: flow_step(metric, compute_ricci_tensor(metric), 1e-4)


def _exponential() -> Operation:
    turn = torch.randn(64, 64, generator=torch_generator(0, "turn"), dtype=torch.float64) / 8
    return partial(torch.linalg.matrix_exp, turn - turn.mT)


def _coarse_scores() -> Operation:
    with seeded(0):
        layer = QuantumGeometricAttention(64, 4, tile_size=16).eval()
    with torch.no_grad():
        state = layer.prepare_attention_state(tokens(256))
    return partial(coarse_logits, layer.score, Rows(state))


OPERATIONS: Mapping[str, Callable[[], Operation]] = {
    "metric pairing, 256 points": _pairing,
    "Christoffel symbols, 64 points": lambda: STEPS["Christoffel symbols, 64 points"]().ours,
    "Ricci step, 64 x 64": _ricci_step,
    "reaction and diffusion, 2 x 128 x 128": lambda: STEPS["reaction and diffusion, 2 x 128 x 128"]().ours,
    "10 leapfrogs, 256 x 8": lambda: STEPS["10 leapfrogs, 256 x 8"]().ours,
    "matrix exponential, 64 x 64": _exponential,
    "coarse scores, 256 tokens in 16 tiles": _coarse_scores,
}
