"""Heat that flows along tiled attention, and what the layer measures of itself."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from tests.toolkit.geometry.tiled_layers import ROUNDING, in_plan, layer, over_causal, tokens
from toolkit.geometry.neural.attention.flow import dirichlet_energy, flow
from toolkit.geometry.neural.attention.metrics import attention_flops, forman_curvature, tile_chain
from toolkit.rng import torch_generator

# ---- heat flow


def test_one_step_or_a_share_of_none_is_plain_attention() -> None:
    x = tokens(32)
    plain = in_plan(layer(), x, "topk")
    for options in ({"num_layers": 1, "flow_share": 1.0}, {"num_layers": 5, "flow_share": 0.0}):
        torch.testing.assert_close(in_plan(layer(**options), x, "topk"), plain, rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize("plan", ["dense", "topk", "threshold"])
def test_the_flow_is_powers_of_the_weights(plan: str) -> None:
    model, x = layer("dot", num_layers=3, flow_share=0.3, tolerance=0.3), tokens(32)
    model.plan = plan
    with torch.no_grad():
        state = model.prepare_attention_state(x)
        p = model.patterns(state).dense()
        step = 0.7 * torch.eye(32, dtype=torch.float64) + 0.3 * p
        wanted = step @ step @ p @ state.v.flatten(1, 2)
        torch.testing.assert_close(model._answers(state).flatten(1, 2), wanted, rtol=1e-12, atol=1e-12)


def test_the_flow_stays_within_the_values_and_ends_in_the_stationary_mean() -> None:
    model = layer("dot", num_layers=400, flow_share=0.9)
    with torch.no_grad():
        state = model.prepare_attention_state(tokens(32, size=0.5))
        pattern = model.patterns(state)
        values, metrics = model.geometric_attention_flow(pattern, state.v)
        left = torch.linalg.matrix_power(pattern.dense(), 4000)[:, :1]
    low, high = (edge(1).values[:, None] for edge in (state.v.flatten(1, 2).min, state.v.flatten(1, 2).max))
    flat = values.flatten(1, 2)
    assert ((flat >= low - ROUNDING) & (flat <= high + ROUNDING)).all()
    torch.testing.assert_close(flat, (left @ state.v.flatten(1, 2)).expand_as(flat), rtol=1e-6, atol=1e-6)
    assert metrics.dirichlet_after < metrics.dirichlet_before


def test_energy_never_grows_along_a_reversible_flow() -> None:
    """P = D⁻¹ W of symmetric W is reversible with respect to its row sums."""
    w = torch.rand(2, 12, 12, generator=torch_generator(0), dtype=torch.float64)
    w = w + w.mT
    p, measure = w / w.sum(-1, keepdim=True), w.sum(-1).reshape(2, 3, 4)

    def step(x: Tensor) -> Tensor:
        return (p @ x.flatten(1, 2)).reshape(x.shape)

    x = torch.randn(2, 3, 4, 5, generator=torch_generator(1), dtype=torch.float64)
    energies = [dirichlet_energy(step, flow(step, x, steps, 0.5), measure) for steps in (1, 2, 3, 6)]
    assert all((later <= earlier + ROUNDING).all() for earlier, later in pairwise(energies))
    apart = (x.flatten(1, 2)[:, :, None] - x.flatten(1, 2)[:, None]).square().sum(-1)
    direct = 0.5 * (measure.flatten(1)[..., None] * p * apart).sum((1, 2)) / measure.flatten(1).sum(1)
    torch.testing.assert_close(dirichlet_energy(step, x, measure), direct)


# ---- what it was like


def test_metrics_of_attention_that_is_spread_evenly() -> None:
    model = layer("dot")
    torch.nn.init.zeros_(model.query.weight), torch.nn.init.zeros_(model.query.bias)
    with torch.no_grad():
        _, found = model(tokens(32), return_metrics=True)
    assert found["attention_entropy_nats"] == pytest.approx(math.log(32))
    assert found["attention_entropy_share"] == pytest.approx(1)
    assert found["effective_rank"] == pytest.approx(1)
    assert found["spectral_gap"] == pytest.approx(1)
    assert found["audit_error"] == pytest.approx(0, abs=1e-12)
    assert found["mass_bound_max"] == pytest.approx(20 / 32)  # 5 of 8 tiles are not refined, and no slack is needed
    assert found["refined_fraction"] == 3 / 8
    assert "tile_purity" not in found


def test_metrics_of_attention_that_keeps_to_its_tile() -> None:
    model = layer("dot", tile_size=4)
    with torch.no_grad():
        state = model.prepare_attention_state(tokens(16, batch=1))
        tile = torch.arange(4, dtype=torch.float64).repeat_interleave(4).reshape(1, 4, 4, 1)
        far = 50.0 * torch.nn.functional.one_hot(tile[..., 0].long(), 4).double()
        one = torch.ones_like(tile)
        q = torch.cat([far, one], -1).expand(2, -1, -1, -1)
        k = torch.cat([far, 0 * one], -1).expand(2, -1, -1, -1)
        state = type(state)(**{**vars(state), "q": q, "k": k, "f": q, "asks": q, "c": k.mean(2), "rho": 0 * state.rho})
        chain = tile_chain(model.patterns(state))
    torch.testing.assert_close(chain, torch.eye(4, dtype=torch.float64).expand(2, -1, -1), rtol=0, atol=1e-9)


def test_a_tile_of_equal_keys_is_pure() -> None:
    model = layer("fidelity")
    with torch.no_grad():
        _, same = model(tokens(1).expand(2, 32, 16), return_metrics=True)
        _, other = model(tokens(32), return_metrics=True)
    assert same["tile_purity"] == pytest.approx(1)
    assert 1 / 4 <= other["tile_purity"] < 0.99
    assert "metric_condition" not in same


def test_the_condition_of_the_metric_is_that_of_numpy() -> None:
    model = layer("metric")
    with torch.no_grad():
        _, found = model(tokens(8), return_metrics=True)
        values = torch.linalg.eigvalsh(model.score.metric())
    assert found["metric_condition"] == pytest.approx(float((values[:, -1] / values[:, 0]).max()))
    assert torch.linalg.cholesky_ex(model.score.metric()).info.sum() == 0


def test_forman_curvature_of_known_graphs() -> None:
    """A triangle's edges: 4 - 2 - 2 + 3; a path of three: 4 - 1 - 2."""
    triangle = torch.ones(1, 3, 3) / 3
    assert forman_curvature(triangle).tolist() == [3, 3, 3]
    path = torch.tensor([[[0.0, 0.5, 0.0], [0.5, 0.0, 0.5], [0.0, 0.5, 0.0]]])
    assert forman_curvature(path).tolist() == [1, 1]
    assert forman_curvature(torch.eye(3)[None]).tolist() == []


@over_causal
def test_the_spectral_gap_is_that_of_the_eigenvalues(causal: bool) -> None:
    from toolkit.geometry.neural.attention.metrics import _gap

    p, q = 0.3, 0.2
    chain = torch.tensor([[[1 - p, p], [q, 1 - q]]], dtype=torch.float64)
    if causal:
        chain = torch.tensor([[[1.0, 0.0], [p, 1 - p]]], dtype=torch.float64)
    assert float(_gap(chain)) == pytest.approx(p if causal else p + q)
    assert float(_gap(torch.ones(1, 1, 1))) == 1


def test_work_is_counted_as_the_products_take() -> None:
    """N T F + N R B E + N (R B + T) D multiply-adds, as torch's counter sees them."""
    from torch.utils.flop_counter import FlopCounterMode

    model, x = layer("fidelity", tile_size=8, refine=2), tokens(64, batch=1)
    with torch.no_grad():
        state = model.prepare_attention_state(x)
        with FlopCounterMode(display=False) as counter:
            model.patterns(state, certify=False).apply(state.v)
    # a logit is a product over the 4 numbers of a state, without the one that is added
    assert counter.get_total_flops() == 2 * attention_flops(64, 8, 2, 4, 10, 8)
    dense = attention_flops(64, 64, 1, 4, 10, 8)
    assert dense == 2 * 64 * 64 * (4 + 8)
