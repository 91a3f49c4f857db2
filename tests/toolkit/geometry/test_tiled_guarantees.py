"""What tiled attention promises, bounds of its error and who never reaches whom, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.toolkit.geometry.tiled_layers import ROUNDING, TILED, in_plan, layer, over_causal, over_scores, tokens
from toolkit.errors import GeometryError
from toolkit.geometry.neural.attention import QuantumGeometricAttention, audit
from toolkit.geometry.neural.attention.certificate import diameter, exact_rows

# ---- bounds


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


# ---- who reaches whom


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
