"""The options one by one: scales, pondering, kept sites, bytes, clamps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from passes.dataset import UNASKED
from targets.errors import InvalidInput
from toolkit.models import resnet_bk
from toolkit.models.resnet_bk import Config, chain, operators
from toolkit.models.resnet_bk.kept_sites import KeptSites
from toolkit.models.resnet_bk.multi_scale import down, up
from toolkit.models.resnet_bk.pondering import Pondering
from toolkit.models.resnet_bk.storage import error_bound, load, store
from toolkit.models.seeded import seeded

SMALL = {"vocabulary": 23, "width": 16, "heads": 4, "hidden": 24, "context": 200}


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# ---- several scales


@settings(deadline=None)
@given(n=st.integers(1, 70), step=st.sampled_from([2, 4, 8, 16]))
def test_any_length_goes_down_and_up(n, step):
    x = noise(2, n, 3)
    pooled = down(x, step)
    groups = [x[:, at : at + step].mean(1) for at in range(0, n, step)]
    torch.testing.assert_close(pooled, torch.stack(groups, 1))
    whole, late = up(pooled, n, step, causal=False), up(pooled, n, step, causal=True)
    assert whole.shape == late.shape == x.shape
    for i in range(n):
        assert torch.equal(whole[:, i], pooled[:, i // step])
        known = (i + 1) // step  # groups that end at i or before
        assert torch.equal(late[:, i], pooled[:, known - 1] if known else torch.zeros(2, 3, dtype=x.dtype))


# ---- pondering


class _Step(nn.Module):
    """A state that changes at each step, so that the weights of steps show."""

    def forward(self, state: Tensor) -> Tensor:
        return torch.tanh(state * 1.3 + 0.1)


def halting(width: int, most: int, scale: float = 1.0, bias: float = 0.0) -> Pondering:
    made = Pondering(width, most).double()
    nn.init.constant_(made.halt.bias, bias)
    with torch.no_grad():
        made.halt.weight.copy_(noise(1, width, seed=5) * scale)
    return made


def by_hand(ponder: Pondering, state: Tensor) -> tuple[Tensor, float, int]:
    """Graves 2016, equations 5 to 12, for one token."""
    spent, out = 0.0, torch.zeros_like(state)
    for t in range(1, ponder.most + 1):
        state = _Step()(state)
        p = float(torch.sigmoid(ponder.halt(state)))
        if spent + p >= 1 - 0.01 or t == ponder.most:
            return out + (1 - spent) * state, t + 1 - spent, t
        spent, out = spent + p, out + p * state
    raise AssertionError


@pytest.mark.parametrize("bias", [-3.0, -1.0, 0.0, 2.0, 8.0])
def test_each_token_halts_as_published(bias):
    ponder, state = halting(6, 5, scale=1.5, bias=bias), noise(2, 7, 6)
    with torch.no_grad():
        found = ponder(state, _Step())
        for b in range(2):
            for i in range(7):
                out, cost, steps = by_hand(ponder, state[b, i])
                torch.testing.assert_close(found.out[b, i], out)
                assert float(found.cost[b, i]) == pytest.approx(cost)
                assert int(found.steps[b, i]) == steps


def test_the_loop_ends_when_all_have_halted():
    calls = []

    def step(state: Tensor) -> Tensor:
        calls.append(1)
        return state + 1

    halting(6, 50, scale=0.0, bias=0.0)(noise(2, 7, 6), step)
    assert len(calls) == 2  # one half and one half


def test_ponder_cost_is_of_this_forward_and_its_gradient_that_of_the_remainder():
    model = resnet_bk.build(Config(**SMALL, ponder_steps=4)).train()
    read = torch.arange(30)[None] % 23
    costs = [float(model.answer(read).ponder.detach()) for _ in range(3)]
    assert costs[0] == costs[1] == costs[2]
    model.answer(read).ponder.backward()
    assert model.pondering.halt.bias.grad.abs().max() > 0
    assert not list(model.pondering.buffers())


@pytest.mark.slow
def test_pondering_longer_costs_less_where_it_is_dear():
    model = resnet_bk.build(Config(**SMALL, ponder_steps=6)).train()
    nn.init.constant_(model.pondering.halt.bias, -1.5)
    read = torch.arange(60)[None] % 23
    before = float(model.answer(read).ponder.detach())
    optimizer = torch.optim.SGD(model.pondering.parameters(), 1.0)
    for _ in range(10):
        optimizer.zero_grad()
        model.answer(read).ponder.backward()
        optimizer.step()
    assert float(model.answer(read).ponder.detach()) < before - 1


# ---- kept sites


def sites(share: float, *, causal: bool) -> KeptSites:
    with seeded(1):
        return KeptSites(5, share, causal).double()


def sites_of(monkeypatch: pytest.MonkeyPatch, model: nn.Module, read: Tensor) -> list[int]:
    """Sites that each call of the chain computed."""
    counted = []
    whole = operators.diagonal

    def counting(u: Tensor, w: Tensor, *, causal: bool) -> Tensor:
        counted.append(u.numel())
        return whole(u, w, causal=causal)

    monkeypatch.setattr(chain, "diagonal", counting)
    with torch.no_grad():
        model(read)
    return counted


def test_with_both_sides_only_the_share_is_computed(monkeypatch):
    read = torch.arange(200)[None] % 23
    model = resnet_bk.build(Config(**SMALL, mode="both_sides", kept_share=0.25))
    assert sites_of(monkeypatch, model, read) == [4 * 50] * 2


def test_causal_sites_are_those_with_a_positive_score(monkeypatch):
    read = torch.arange(200)[None] % 23
    model = resnet_bk.build(Config(**SMALL, kept_share=0.25))
    scores: list[Tensor] = []
    for block in model.blocks:
        block.chains[0].sites.score.register_forward_hook(lambda _m, _i, out: scores.append(out))
    counted = sites_of(monkeypatch, model, read)
    assert counted == [4 * int((score > 0).sum()) for score in scores]
    assert sum(counted) < 0.5 * 2 * 4 * 200


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_between_kept_sites_is_interpolated(share):
    chosen = sites(share, causal=False)(noise(2, 41, 5))
    found = noise(2, chosen.positions.shape[1], 3)
    spread = chosen.spread(found)
    weighed = (found * chosen.weight[..., None]).detach().numpy()
    for b in range(2):
        places = chosen.positions[b].numpy()
        for f in range(3):
            truth = np.interp(np.arange(41), places, weighed[b, :, f])
            np.testing.assert_allclose(spread[b, :, f].detach().numpy(), truth, atol=1e-12)


def test_causal_positions_hold_what_the_last_kept_site_found():
    keep = sites(0.4, causal=True)
    x = noise(3, 41, 5)
    chosen, kept = keep(x), keep.score(x)[..., 0] > 0
    found = noise(3, chosen.positions.shape[1], 2)
    spread = chosen.spread(found)
    assert len(set(kept.sum(1).tolist())) > 1  # rows differ, the longest decides
    for b in range(3):
        last, number = torch.zeros(2, dtype=x.dtype), -1
        for i in range(41):
            if kept[b, i]:
                number += 1
                last = found[b, number] * chosen.weight[b, number]
            torch.testing.assert_close(spread[b, i], last)


def test_a_causal_chain_without_any_site_says_nothing():
    model = resnet_bk.build(Config(**SMALL, kept_share=0.5))
    for block in model.blocks:
        nn.init.constant_(block.chains[0].sites.score.bias, -100.0)
    answer = model.answer(torch.arange(50)[None] % 23)
    assert answer.logits.isfinite().all()
    assert answer.density.item() == 0


# ---- bytes


@settings(max_examples=40, deadline=None)
@given(largest=st.floats(0.01, 100), seed=st.integers(0, 1000))
def test_a_byte_is_off_by_half_a_step(largest, seed):
    values = (noise(200, seed=seed) * largest).clamp(-largest, largest)
    codes = store(values, largest)
    assert codes.dtype == torch.int8
    assert (load(codes, largest, torch.float64) - values).abs().max() <= largest / 254 * (1 + 1e-12)


@pytest.mark.parametrize("mode", ["causal", "both_sides"])
@pytest.mark.parametrize("broadening", [0.1, 0.5, 2.0])
def test_features_in_bytes_are_within_the_stated_bound(mode, broadening):
    fields = {**SMALL, "mode": mode, "broadening_low": broadening, "broadening_high": broadening}
    whole, stored = (
        resnet_bk.build(Config(**fields, storage=how)).double().blocks[0].chains[0] for how in ("float32", "int8")
    )
    x = noise(4, 200, 16) * 2
    with torch.no_grad():
        error = float((whole(x)[0] - stored(x)[0]).abs().max())
    assert 0 < error <= error_bound(3.0, broadening)


def test_the_gradient_through_bytes_is_that_of_the_numbers_that_they_hold():
    fields = {**SMALL, "potential_clamp": 3.0}
    whole, stored = (
        resnet_bk.build(Config(**fields, storage=how)).double().blocks[0].chains[0] for how in ("float32", "int8")
    )
    x, seed = noise(2, 60, 16), noise(2, 60, 8, seed=1)
    grads = [torch.autograd.grad((one(x)[0] * seed).sum(), list(one.parameters())) for one in (whole, stored)]
    for ours, theirs in zip(*grads, strict=True):
        assert torch.nn.functional.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0) > 0.99


# ---- clamps


def test_clamps_bind_where_they_are_on_and_nowhere_else():
    read = torch.arange(100)[None] % 23
    heard: dict[str, list[float]] = {}
    for name, changes in {"on": {}, "off": {"potential_clamp": None, "feature_clamp": None}}.items():
        model = resnet_bk.build(Config(**SMALL, broadening_low=0.02, broadening_high=0.02, **changes))
        block = model.blocks[0].chains[0]
        with torch.no_grad():
            block.potential.weight *= 20
            found, _ = block(noise(1, 100, 16).float())
        heard[name] = [float(found.abs().max())]
        assert model(read).isfinite().all()
    assert heard["on"][0] == 10.0
    assert 10.0 < heard["off"][0] <= 50.0 * (1 + 1e-5)  # 1 / broadening, whatever the potential


# ---- what the trainer makes small


def ids(*shape: int, most: int = 23) -> Tensor:
    return torch.randint(most, shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("option", "silent", "touched"), [
    ({"experts": 4}, {"balance_weight": 0.0}, "router"),
    ({"ponder_steps": 3}, {"ponder_weight": 0.0}, "pondering.halt"),
])  # fmt: skip
def test_the_loss_asks_something_of_each_option(option, silent, touched):
    batch = ({"characters": ids(2, 40)}, ids(2, 40))
    with seeded(0):
        model = resnet_bk.build(Config(**SMALL, **option))
    with seeded(0):
        free = resnet_bk.build(Config(**SMALL, **option, **silent))
    cost, without = resnet_bk.loss(model, batch), resnet_bk.loss(free, batch)
    assert cost > without
    (cost - without).backward()
    moved = [name for name, p in model.named_parameters() if touched in name and p.grad is not None and p.grad.any()]
    assert moved


def test_only_hidden_ids_teach_a_model_of_both_sides():
    config = Config(**SMALL, mode="both_sides")
    model, data = resnet_bk.build(config), resnet_bk.training(config).take(3)
    shown = torch.from_numpy(np.concatenate([sample["characters"] for sample in data]))
    asked = torch.from_numpy(data.labels) != UNASKED
    assert torch.equal(asked, shown == config.vocabulary)
    assert asked.any(dim=1).all()
    labels = torch.from_numpy(data.labels)
    found = resnet_bk.loss(model, ({"characters": shown}, labels))
    truth = nn.functional.cross_entropy(model(shown)[asked], labels[asked])
    torch.testing.assert_close(found, truth + config.balance_weight * (model.answer(shown).balance - 1))
    with pytest.raises(InvalidInput, match="no labels"):
        resnet_bk.loss(model, ({"characters": shown}, None))
