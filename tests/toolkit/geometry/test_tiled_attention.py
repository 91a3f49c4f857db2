"""Tiled attention: what it shares with dense attention, what it promises, what it never does."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from toolkit.errors import GeometryError
from toolkit.geometry.neural.attention import QuantumGeometricAttention, audit, make_score
from toolkit.geometry.neural.attention.born import born, born_weights
from toolkit.geometry.neural.attention.certificate import diameter, exact_rows
from toolkit.geometry.neural.attention.choosing import log_sum_exp
from toolkit.geometry.neural.attention.flow import dirichlet_energy, flow
from toolkit.geometry.neural.attention.metrics import attention_flops, forman_curvature, tile_chain
from toolkit.geometry.runtime.memory import live_bytes
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


# ---- what it shares with dense attention


@over_scores
def test_a_logit_is_what_states_say_and_what_keys_add_written_over_or_not(score: str) -> None:
    """Without a gradient what was computed is written over; with one it is kept. Neither changes its input."""
    made = make_score(score, 2, 4).double()
    given = [tokens(5, seed=i).reshape(2, 2, 5, 8)[..., :4] for i in (0, 1)]
    with torch.no_grad():
        q, k = made.vectors(*given)
        k[..., -1] += torch.arange(5)
        before = q.clone(), k.clone()
        alone = made.bare(q, k)
        torch.testing.assert_close(made.logits(q, k), alone + k[..., -1].unsqueeze(-2), rtol=ROUNDING, atol=ROUNDING)
    torch.testing.assert_close((q, k), before, rtol=0, atol=0)
    torch.testing.assert_close(made.bare(q.requires_grad_(), k).detach(), alone, rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize("score", TILED)
def test_a_logit_is_the_same_where_it_is_written_into_memory_that_is_there(score: str) -> None:
    made = make_score(score, 2, 4).double()
    with torch.no_grad():
        given = [tokens(40, seed=i).reshape(2, 2, 40, 8)[..., :4] for i in (0, 1)]
        q, k = (x.flatten(0, 1) for x in made.vectors(*given))
        added = torch.linspace(-1, 1, 160, dtype=torch.float64).reshape(4, 1, 40)
        whole, room = torch.full((4, 40, 47), torch.nan).double(), torch.full((4, 40, 40), torch.nan).double()
        with live_bytes() as used:
            made.write(q, k, added, whole[..., :40], room)
        torch.testing.assert_close(whole[..., :40], made.bare(q, k) + added, rtol=ROUNDING, atol=ROUNDING)
    assert whole[..., 40:].isnan().all()
    assert used.peak < room.nbytes / 2  # vectors, no logits


@over_causal
@pytest.mark.parametrize("score", ["fidelity", "fidelity_complex", "hyperbolic"])
@pytest.mark.parametrize("batch", [1, 2])
def test_parts_share_their_memory_without_gradients_and_answer_alike(score: str, causal: bool, batch: int) -> None:
    """Only without gradients: with them every part keeps its own."""
    model, x = layer(score, causal=causal), tokens(29, batch=batch)
    model.plan, model.refine = "topk", 3
    whole = model(x)
    assert whole.requires_grad
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        for at_once in (1, 2000, 2**19):  # one tile at a time; a last part that is smaller; all
            patch.setattr("toolkit.geometry.neural.attention.quantum_geometric._AT_ONCE", at_once)
            torch.testing.assert_close(model(x), whole.detach(), rtol=ROUNDING, atol=ROUNDING)


@over_causal
def test_the_dense_plan_of_dot_is_torchs_attention(causal: bool) -> None:
    model, x = layer("dot", causal=causal), tokens(29)
    q, k, v = (p(x).unflatten(2, (2, -1)).transpose(1, 2) for p in (model.query, model.key, model.value))
    wanted = model.out(scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).flatten(2))
    torch.testing.assert_close(in_plan(model, x, "dense"), wanted, rtol=ROUNDING, atol=ROUNDING)


def test_the_metric_score_is_the_distance_in_its_metric() -> None:
    model, x = layer("metric"), tokens(12)
    with torch.no_grad():
        model.score.diagonal.add_(torch.linspace(-1, 1, 8).reshape(2, 4))
        model.score.log_tau.copy_(torch.tensor([0.3, -0.2]))
    q, k, v = (p(x).unflatten(2, (2, -1)).transpose(1, 2) for p in (model.query, model.key, model.value))
    apart = q[:, :, :, None] - k[:, :, None]
    square = torch.einsum("bhqki,hij,bhqkj->bhqk", apart, model.score.metric(), apart)
    logits = -model.score.tau() * square / (2 * math.sqrt(4))
    wanted = model.out((torch.softmax(logits, -1) @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(in_plan(model, x, "dense"), wanted, rtol=1e-12, atol=1e-12)


def test_the_overlap_of_complex_states_is_that_of_complex_numbers() -> None:
    score = make_score("fidelity_complex", 1, 6).double()
    a, b = (torch.randn(1, 1, 5, 6, generator=torch_generator(0, n), dtype=torch.float64) for n in "ab")
    logits = score.logits(*score.vectors(a, b))
    a, b = (torch.complex(x[..., :3], x[..., 3:]) for x in (a, b))
    a, b = (x / x.norm(dim=-1, keepdim=True) for x in (a, b))
    torch.testing.assert_close(logits, (a.conj() @ b.mT).abs().square(), rtol=1e-10, atol=1e-10)


def test_the_hyperbolic_score_is_the_distance_of_the_half_space() -> None:
    """The hyperboloid's distance by Poincaré's ball: arcosh(1 + 2 |x - y|² / ((1 - |x|²) (1 - |y|²)))."""
    score = make_score("hyperbolic", 1, 3).double()
    a, b = (torch.randn(1, 1, 6, 3, generator=torch_generator(0, n), dtype=torch.float64) for n in "ab")
    logits = score.logits(*score.vectors(a, b))
    x, y = (p / (1 + (1 + p.square().sum(-1, keepdim=True)).sqrt()) for p in (a, b))
    apart = (x[..., :, None, :] - y[..., None, :, :]).square().sum(-1)
    shrink = (1 - x.square().sum(-1))[..., :, None] * (1 - y.square().sum(-1))[..., None, :]
    torch.testing.assert_close(-logits, torch.arccosh(1 + 2 * apart / shrink), rtol=1e-9, atol=1e-9)


@over_scores
@over_causal
@pytest.mark.parametrize("plan", ["topk", "ranked"])
@pytest.mark.parametrize("length", [32, 29, 3])
def test_with_all_tiles_it_is_dense(score: str, causal: bool, plan: str, length: int) -> None:
    model, x = layer(score, causal=causal), tokens(length)
    torch.testing.assert_close(in_plan(model, x, plan, 99), in_plan(model, x, "dense"), rtol=ROUNDING, atol=ROUNDING)


@over_scores
@over_causal
@pytest.mark.parametrize("choose_by", ["own", "earlier"])
def test_both_ways_to_choose_choose_the_same(score: str, causal: bool, choose_by: str) -> None:
    model, x = layer(score, causal=causal, choose_by=choose_by), tokens(30)
    torch.testing.assert_close(in_plan(model, x, "ranked"), in_plan(model, x, "topk"), rtol=ROUNDING, atol=ROUNDING)


@over_scores
@over_causal
@pytest.mark.parametrize("plan", ["topk", "ranked"])
def test_tiles_just_before_are_taken_whatever_they_hold(score: str, causal: bool, plan: str) -> None:
    model, x = layer(score, causal=causal, refine=3, near=2), tokens(32)
    tiles = 32 // model.tile
    model.settled = (
        torch.stack([torch.arange(tiles) - 1, torch.arange(tiles) - 2], 1).remainder(tiles).expand(2, -1, -1)
    )
    wanted, found = (in_plan(model, x, name, 3) for name in ("static", plan))
    behind = 2 * model.tile  # the first tiles have fewer before them; causal, the static ones lie in the future
    torch.testing.assert_close(found[:, behind:], wanted[:, behind:], rtol=ROUNDING, atol=ROUNDING)
    if causal:
        torch.testing.assert_close(found, wanted, rtol=ROUNDING, atol=ROUNDING)
    model.near = 0
    assert not torch.allclose(in_plan(model, x, plan, 3), found, atol=1e-6)


@over_scores
def test_equal_tiles_are_chosen_once_each(score: str) -> None:
    """Every priority is the same: ties neither leave a tile out nor take one twice."""
    model, x = layer(score), tokens(1).expand(2, 32, 16)
    for plan in ("topk", "ranked"):
        torch.testing.assert_close(in_plan(model, x, plan), in_plan(model, x, "dense"), rtol=1e-12, atol=1e-12)


@over_scores
@over_causal
def test_the_weights_are_those_of_the_fused_kernel(score: str, causal: bool) -> None:
    model, x = layer(score, causal=causal), tokens(32)
    with torch.no_grad():
        state = model.prepare_attention_state(x)
        pattern = model.patterns(state)
        torch.testing.assert_close(pattern.apply(state.v), model._answers(state), rtol=ROUNDING, atol=ROUNDING)


def test_parts_of_the_queries_give_the_same_as_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = layer("metric", causal=True), tokens(32)
    whole = in_plan(model, x, "topk")
    monkeypatch.setattr("toolkit.geometry.neural.attention.quantum_geometric._AT_ONCE", 1)
    torch.testing.assert_close(in_plan(model, x, "topk"), whole, rtol=ROUNDING, atol=ROUNDING)


@over_causal
def test_born_in_linear_time_is_the_dense_formula(causal: bool) -> None:
    model, x = layer("born", causal=causal), tokens(29)
    mask = torch.ones(2, 29, dtype=torch.bool)
    mask[1, 5:9] = False
    for some in (None, mask):
        with torch.no_grad():
            state = model.prepare_attention_state(x, some)
            weights = born_weights(model.score, state, causal)
            found = born(model.score, state, causal).flatten(1, 2)
        torch.testing.assert_close(found, weights @ state.v.flatten(1, 2), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(weights.sum(-1)[:, :29], torch.ones(4, 29, dtype=torch.float64))


# ---- what it promises


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    score=st.sampled_from(TILED), causal=st.booleans(), length=st.integers(5, 40), refine=st.integers(1, 6),
    size=st.floats(0.1, 6), seed=st.integers(0, 99),
)  # fmt: skip
def test_no_error_is_above_its_bound(
    score: str, causal: bool, length: int, refine: int, size: float, seed: int
) -> None:
    model = layer(score, seed, causal=causal, refine=refine)
    with torch.no_grad():
        state = model.prepare_attention_state(tokens(length, seed, batch=1, size=size))
        pattern = model.patterns(state)
        assert pattern.epsilon is not None
        found = audit(model.score, state, pattern.apply(state.v), pattern.epsilon, length=length, causal=causal,
                      rows=length)  # fmt: skip
    assert found.holds
    assert len(found.queries) == length
    if refine >= state.tiles:
        assert pattern.epsilon.max() == 0


def test_the_diameter_is_no_less_than_the_largest_distance() -> None:
    model = layer()
    with torch.no_grad():
        state = model.prepare_attention_state(tokens(29))
    v = state.v.flatten(1, 2)[:, :29]
    furthest = torch.cdist(v, v).amax((1, 2))
    assert (diameter(state)[:, 0] >= furthest).all()
    assert (diameter(state)[:, 0] <= 2 * furthest).all()


@over_scores
def test_the_threshold_keeps_its_tolerance(score: str) -> None:
    model, x = layer(score, plan="threshold", tolerance=0.2), tokens(32)
    with torch.no_grad():
        state = model.prepare_attention_state(x)
        apart = exact_rows(model.score, state, torch.arange(32), False) - model._answers(state).flatten(1, 2)
    assert (apart.norm(dim=-1) <= 0.2 * diameter(state)).all()


def test_a_loose_threshold_refines_fewer_tiles() -> None:
    x = tokens(64, size=0.3)
    shares = []
    for tolerance in (0.97, 0.5, 0.0):
        model = layer("dot", plan="threshold", tolerance=tolerance)
        with torch.no_grad():
            shares.append(model(x, return_metrics=True)[1]["refined_fraction"])
    assert shares == sorted(shares)
    assert shares[0] < shares[-1] == 1


@pytest.mark.parametrize("score", [*TILED, "born"])
@pytest.mark.parametrize("plan", ["dense", "topk", "ranked"])
def test_nothing_of_a_later_token_reaches_an_earlier_one(score: str, plan: str) -> None:
    model, x = layer(score, causal=True, choose_by="earlier", plan=plan), tokens(29)
    changed = x.clone()
    changed[:, 14:] = tokens(29, seed=1)[:, 14:]
    with torch.no_grad():
        before, after = model(x), model(changed)
    torch.testing.assert_close(after[:, :14], before[:, :14], rtol=ROUNDING, atol=ROUNDING)
    assert (after[:, 14] - before[:, 14]).abs().max() > 1e-3


@over_scores
@over_causal
def test_hidden_tokens_change_nothing(score: str, causal: bool) -> None:
    model, x = layer(score, causal=causal), tokens(32)
    mask = torch.ones(2, 32, dtype=torch.bool)
    mask[0, 20:], mask[1, 8:12], mask[1, 17] = False, False, False
    changed = torch.where(mask[..., None], x, tokens(32, seed=1, size=50.0))
    for plan in ("dense", "topk", "ranked"):
        some, others = (in_plan(model, y, plan, mask=mask)[mask] for y in (x, changed))
        torch.testing.assert_close(some, others, rtol=1e-12, atol=1e-12)


@over_scores
def test_the_order_of_keys_within_a_tile_does_not_matter(score: str) -> None:
    model, x = layer(score), tokens(32)
    with torch.no_grad():
        state = model.prepare_attention_state(x)
        moved = model._prepared(
            *(p(y).unflatten(2, (2, -1)).transpose(1, 2)
              for p, y in ((model.query, x), (model.key, _turned(x)), (model.value, _turned(x)))), None, 1.0, 32
        )  # fmt: skip
        torch.testing.assert_close(model._answers(moved), model._answers(state), rtol=1e-12, atol=1e-12)


def _turned(x: Tensor) -> Tensor:
    return x.unflatten(1, (-1, 4)).flip(2).flatten(1, 2)


@over_scores
@over_causal
def test_rows_sum_to_one_and_the_dense_form_is_the_same(score: str, causal: bool) -> None:
    model = layer(score, causal=causal)
    mask = torch.ones(2, 29, dtype=torch.bool)
    mask[1, 3:6] = False
    with torch.no_grad():
        state = model.prepare_attention_state(tokens(29), mask)
        for plan in ("topk", "ranked"):
            model.plan = plan
            pattern = model.patterns(state)
            weights = pattern.dense()
            assert (weights >= 0).all()
            torch.testing.assert_close(weights.sum(-1)[:, :29], torch.ones(4, 29, dtype=torch.float64))
            mixed = (weights @ state.v.flatten(1, 2))[:, :29]
            torch.testing.assert_close(mixed, pattern.apply(state.v).flatten(1, 2)[:, :29])


# ---- learning


@pytest.mark.parametrize("score", [*TILED, "born"])
def test_gradients_are_those_of_differences(score: str) -> None:
    model, x = layer(score, refine=2), tokens(9, batch=1)
    names, leaves = zip(*model.named_parameters(), strict=True)

    def answer(y: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), y)

    assert torch.autograd.gradcheck(answer, (x.requires_grad_(), *leaves), atol=1e-6, fast_mode=True)


@pytest.mark.parametrize("score", [*TILED, "born"])
def test_gradients_are_finite_where_tokens_are_equal_or_zero(score: str) -> None:
    model = layer(score, refine=2)
    for bias in (model.query.bias, model.key.bias):
        torch.nn.init.zeros_(bias)
    x = torch.cat([torch.zeros(1, 8, 16), torch.ones(1, 9, 16)], 1).double().requires_grad_()
    model(x).square().sum().backward()
    assert torch.isfinite(x.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_all_plans_share_their_weights() -> None:
    models = [layer("metric", plan=plan) for plan in ("dense", "topk", "ranked", "static", "threshold")]
    models[3].settle(tokens(32))
    assert len({tuple(model.state_dict()) for model in models}) == 1


# ---- tiles that are settled


def test_settled_tiles_answer_like_chosen_ones_on_what_they_were_chosen_by() -> None:
    model, x = layer("dot", causal=True), tokens(32, batch=1)
    wanted = in_plan(model, x, "topk")
    model.settle(x)
    torch.testing.assert_close(in_plan(model, x, "static"), wanted, rtol=ROUNDING, atol=ROUNDING)
    model.refine = 1
    model.settle(x)
    torch.testing.assert_close(in_plan(model, x, "static", 1), in_plan(model, x, "topk", 1))


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


def test_dropout_is_for_training_alone() -> None:
    model, x = layer(dropout=0.5), tokens(8)
    assert torch.equal(model(x), model(x))
    model.train()
    with seeded(0):
        assert not torch.equal(model(x), model(x))


def test_patterns_of_queries_keys_and_values_that_come_from_elsewhere() -> None:
    model = layer("dot", refine=99)
    q, k, v = (torch.randn(2, 2, 19, width, generator=torch_generator(width, n), dtype=torch.float64)
               for n, width in (("q", 4), ("k", 4), ("v", 8)))  # fmt: skip
    with torch.no_grad():
        out, metrics = model.compute_attention_patterns(q, k, v, scale=0.5)
    torch.testing.assert_close(out, scaled_dot_product_attention(q, k, v, scale=0.25))
    assert metrics.mass_bound_max == 0


# ---- what it refuses


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"manifold_dim": 0}, "manifold_dim is 0"),
        ({"tile_size": 0}, "tile_size is 0"),
        ({"refine": -1}, "refine is -1"),
        ({"near": -1}, "near is -1"),
        ({"num_layers": 0}, "num_layers is 0"),
        ({"flow_share": 1.5}, "flow_share is 1.5"),
        ({"plan": "best"}, "there is no plan 'best'"),
        ({"choose_by": "chance"}, "there is no choose_by 'chance'"),
        ({"score": "cosine"}, "there is no score 'cosine'"),
        ({"score": "fidelity_complex", "manifold_dim": 3}, "3 real numbers are no complex state"),
    ],
)
def test_what_cannot_be_built_is_refused_by_its_value(options: dict[str, object], says: str) -> None:
    with pytest.raises(GeometryError, match=says) as caught:
        QuantumGeometricAttention(16, 2, **options)
    assert caught.value.hint


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(GeometryError, match="3 heads cannot share 16 features"):
        QuantumGeometricAttention(16, 3)


@pytest.mark.parametrize(
    ("x", "mask", "says"),
    [
        (torch.zeros(4, 16), None, "tokens come as"),
        (torch.zeros(1, 4, 15), None, "tokens come as"),
        (torch.zeros(1, 0, 16), None, "tokens come as"),
        (torch.full((1, 4, 16), math.nan), None, "a token is nan"),
        (torch.zeros(1, 4, 16), torch.ones(1, 4), "the mask is torch.float32"),
        (torch.zeros(1, 4, 16), torch.ones(1, 5, dtype=torch.bool), "the mask is torch.bool"),
        (torch.zeros(2, 4, 16), torch.tensor([[True] * 4, [False] * 4]), "nothing may be seen in sample 1"),
    ],
)
def test_input_that_cannot_be_attended_over_is_refused(x: Tensor, mask: Tensor | None, says: str) -> None:
    with pytest.raises(GeometryError, match=says):
        layer()(x.double(), mask)


def test_tiles_that_were_not_settled_for_this_are_refused() -> None:
    model = layer(plan="static")
    with pytest.raises(GeometryError, match="no tiles were settled"):
        model(tokens(32))
    model.settle(tokens(32))
    with pytest.raises(GeometryError, match="settled were 2 of 8 tiles"):
        model(tokens(64))


@pytest.mark.parametrize(
    ("q", "k", "v", "says"),
    [
        ((1, 2, 8, 4), (1, 2, 7, 4), (1, 2, 8, 8), "queries, keys and values come as"),
        ((1, 2, 8, 4), (1, 2, 8, 4), (1, 2, 7, 8), "queries, keys and values come as"),
        ((1, 2, 8, 5), (1, 2, 8, 5), (1, 2, 8, 8), r"states come as \(1, 2, 8, 5\)"),
        ((1, 3, 8, 4), (1, 3, 8, 4), (1, 3, 8, 8), r"states come as \(1, 3, 8, 4\)"),
    ],
)
def test_states_that_do_not_go_together_are_refused(q: object, k: object, v: object, says: str) -> None:
    with pytest.raises(GeometryError, match=says):
        layer().compute_attention_patterns(*(torch.zeros(shape, dtype=torch.float64) for shape in (q, k, v)))


def test_born_has_no_tiles_to_report_on() -> None:
    with pytest.raises(GeometryError, match="the score born has no tiles"):
        layer("born")(tokens(8), return_metrics=True)


@pytest.mark.parametrize("below", [0.0, -50.0, -100.0, -3e4])
def test_sums_of_exponentials_are_torchs_to_rounding(below: float) -> None:
    """What is cut off, terms of e^-80 beside 1, float64 does not see."""
    x = torch.tensor([[1.0, 2.0, 3.0 + below], [below, below, below]], dtype=torch.float64)
    for dim in (0, 1):
        torch.testing.assert_close(log_sum_exp(x, dim), x.logsumexp(dim, keepdim=True), rtol=1e-15, atol=0)
