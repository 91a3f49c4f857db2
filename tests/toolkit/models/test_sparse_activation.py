"""Exactly k are active, the relaxed gate becomes the hard one, and every parameter learns."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from targets.errors import InvalidInput
from toolkit.models.blueprints.config import parse
from toolkit.models.blueprints.sparse_activation import Config, SparseActivation, build


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def layer(**fields: object) -> SparseActivation:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SparseActivation(parse(Config, {"hidden": 12, "active": 5, **fields})).eval()


@given(
    scores=st.lists(st.lists(st.sampled_from([-1.0, 0.0, 0.5, 2.0]), min_size=9, max_size=9), min_size=1, max_size=6),
    active=st.integers(1, 8),
)
@settings(deadline=None)
def test_exactly_k_are_chosen_whatever_the_ties(scores: list[list[float]], active: int) -> None:
    chosen = layer(hidden=9, active=active).chosen(torch.tensor(scores))
    assert chosen.sum(-1).tolist() == [active] * len(scores)
    for row, kept in zip(scores, chosen.tolist(), strict=True):
        order = sorted(range(9), key=lambda i: (-row[i], i))
        assert [i for i in range(9) if kept[i]] == sorted(order[:active])


@pytest.mark.parametrize("shape", [(3, 7, 12), (3, 12)])
def test_what_is_not_chosen_is_zero_and_the_rest_untouched(shape: tuple[int, ...]) -> None:
    sparse, x = layer(), noise(*shape)
    y = sparse(x)
    assert (y != 0).sum(-1).eq(5).all()
    assert torch.equal(y[y != 0], x[y != 0])
    top = sparse.scores(x).topk(5, dim=-1).indices.sort(-1).values
    assert torch.equal(top, (y != 0).nonzero()[:, -1].reshape(top.shape))


@torch.no_grad()
def test_the_relaxed_gate_becomes_the_hard_one() -> None:
    sparse = layer()
    score = sparse.scores(noise(4, 6, 12))
    hard = sparse.chosen(score)
    off = [float((sparse.relaxed(score, t, noise=False) - hard).abs().max()) for t in (1.0, 0.1, 1e-2, 1e-6)]
    assert off == sorted(off, reverse=True)
    assert off[-1] == 0
    above, below = (hard * 2 - 1) * (sparse.relaxed(score, 1.0, noise=False) - 0.5), torch.tensor(0.0)
    assert (above > below).all(), "the threshold lies between what is chosen and what is not"


def test_noise_is_that_of_two_gumbels() -> None:
    """P(gate > 1/2) at margin m is σ(m): Maddison et al. 2017, section 3."""
    sparse = layer(hidden=2, active=1)
    score = torch.tensor([0.35, -0.35]).expand(40_000, 2)  # the threshold is 0: margins of 0.35
    with torch.random.fork_rng():
        torch.manual_seed(0)
        share = (sparse.relaxed(score, 0.7) > 0.5).float().mean(0)
    expected = torch.sigmoid(torch.tensor([0.35, -0.35]))
    deviation = float((expected * (1 - expected) / 40_000).sqrt().max())
    assert (share - expected).abs().max() < 4 * deviation


def test_the_temperature_falls_geometrically_and_stops() -> None:
    sparse = layer(first_temperature=2.0, last_temperature=0.5, annealing_steps=4).train()
    seen = []
    for _ in range(6):
        seen.append(float(sparse.temperature))
        sparse(noise(2, 12))
    assert seen == pytest.approx([2.0, 2**0.5, 1.0, 0.5**0.5, 0.5, 0.5])
    assert sparse.eval()(noise(2, 12)).shape == (2, 12)
    assert int(sparse.steps) == 6, "evaluation does not count"


def test_novelty_counts_running_deviations() -> None:
    sparse = layer(momentum=1.0).train()
    x = noise(1000, 12) * 3 + 5
    sparse(x)
    torch.testing.assert_close(sparse.mean, x.mean(0))
    torch.testing.assert_close(sparse.variance, x.var(0, correction=0))
    standard = ((x - x.mean(0)) / x.std(0, correction=0)).abs().clamp(max=8)
    torch.testing.assert_close(sparse.novelty(x), standard, rtol=1e-4, atol=1e-4)
    rare = x[:1].clone()
    rare[0, 3] += 1000
    assert float(sparse.novelty(rare)[0, 3]) == 8


def test_gradients_reach_every_parameter_in_training() -> None:
    model = build().train()
    signal = noise(4, 20, 6).requires_grad_()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model(signal).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    assert signal.grad is not None


def test_training_leaves_no_trace_in_evaluation_but_running_moments() -> None:
    model = build()
    signal = noise(2, 16, 6)
    before = model(signal)
    state = {n: t.clone() for n, t in model.state_dict().items()}
    model.train()(signal)
    changed = {n for n, t in model.state_dict().items() if not torch.equal(t, state[n])}
    assert {n.rpartition(".")[2] for n in changed} == {"mean", "variance", "steps"}
    model.load_state_dict(state)
    assert torch.equal(model.eval()(signal), before)


def test_a_config_that_leaves_no_choice_is_refused() -> None:
    with pytest.raises(InvalidInput, match="active = 12 of hidden = 12 leaves nothing to choose"):
        parse(Config, {"hidden": 12, "active": 12})
    with pytest.raises(InvalidInput, match=r"last_temperature = 3\.0 is above first_temperature = 1\.0"):
        parse(Config, {"last_temperature": 3.0})
    with pytest.raises(InvalidInput, match=r"an input is \(batch, length, 6\) or \(batch, 6\), this one is \(2, 5\)"):
        build()(noise(2, 5))
