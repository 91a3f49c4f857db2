"""Tiled attention beside dense attention: the same scores, the same answers where all tiles are taken, gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tests.toolkit.geometry.tiled_layers import ROUNDING, TILED, in_plan, layer, over_causal, over_scores, tokens
from toolkit.geometry.neural.attention import make_score
from toolkit.geometry.neural.attention.born import born, born_weights
from toolkit.geometry.neural.attention.choosing import log_sum_exp
from toolkit.geometry.runtime.memory import live_bytes
from toolkit.models.seeded import seeded
from toolkit.rng import torch_generator

# ---- scores


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


@pytest.mark.parametrize("below", [0.0, -50.0, -100.0, -3e4])
def test_sums_of_exponentials_are_torchs_to_rounding(below: float) -> None:
    """What is cut off, terms of e^-80 beside 1, float64 does not see."""
    x = torch.tensor([[1.0, 2.0, 3.0 + below], [below, below, below]], dtype=torch.float64)
    for dim in (0, 1):
        torch.testing.assert_close(log_sum_exp(x, dim), x.logsumexp(dim, keepdim=True), rtol=1e-15, atol=0)


# ---- plans


@over_causal
def test_the_dense_plan_of_dot_is_torchs_attention(causal: bool) -> None:
    model, x = layer("dot", causal=causal), tokens(29)
    q, k, v = (p(x).unflatten(2, (2, -1)).transpose(1, 2) for p in (model.query, model.key, model.value))
    wanted = model.out(scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2).flatten(2))
    torch.testing.assert_close(in_plan(model, x, "dense"), wanted, rtol=ROUNDING, atol=ROUNDING)


def test_patterns_of_queries_keys_and_values_that_come_from_elsewhere() -> None:
    model = layer("dot", refine=99)
    q, k, v = (torch.randn(2, 2, 19, width, generator=torch_generator(width, n), dtype=torch.float64)
               for n, width in (("q", 4), ("k", 4), ("v", 8)))  # fmt: skip
    with torch.no_grad():
        out, metrics = model.compute_attention_patterns(q, k, v, scale=0.5)
    torch.testing.assert_close(out, scaled_dot_product_attention(q, k, v, scale=0.25))
    assert metrics.mass_bound_max == 0


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


def test_settled_tiles_answer_like_chosen_ones_on_what_they_were_chosen_by() -> None:
    model, x = layer("dot", causal=True), tokens(32, batch=1)
    wanted = in_plan(model, x, "topk")
    model.settle(x)
    torch.testing.assert_close(in_plan(model, x, "static"), wanted, rtol=ROUNDING, atol=ROUNDING)
    model.refine = 1
    model.settle(x)
    torch.testing.assert_close(in_plan(model, x, "static", 1), in_plan(model, x, "topk", 1))


@over_scores
@over_causal
def test_the_weights_are_those_of_the_fused_kernel(score: str, causal: bool) -> None:
    model, x = layer(score, causal=causal), tokens(32)
    with torch.no_grad():
        state = model.prepare_attention_state(x)
        pattern = model.patterns(state)
        torch.testing.assert_close(pattern.apply(state.v), model._answers(state), rtol=ROUNDING, atol=ROUNDING)


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


# ---- parts


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


def test_parts_of_the_queries_give_the_same_as_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = layer("metric", causal=True), tokens(32)
    whole = in_plan(model, x, "topk")
    monkeypatch.setattr("toolkit.geometry.neural.attention.quantum_geometric._AT_ONCE", 1)
    torch.testing.assert_close(in_plan(model, x, "topk"), whole, rtol=ROUNDING, atol=ROUNDING)


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


def test_dropout_is_for_training_alone() -> None:
    model, x = layer(dropout=0.5), tokens(8)
    assert torch.equal(model(x), model(x))
    model.train()
    with seeded(0):
        assert not torch.equal(model(x), model(x))
