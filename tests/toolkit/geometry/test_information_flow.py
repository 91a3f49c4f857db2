"""Information flow of attention, Markov chains, Lyapunov exponents and stability, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.core.patterns import cohomology as co
from toolkit.rng import torch_generator

F64 = torch.float64
TILES = torch.tensor([0, 0, 0, 1, 1, 2])


def entropy_of(p: float) -> float:
    return -p * math.log(p) - (1 - p) * math.log(1 - p)


def test_uniform_and_identical_attention() -> None:
    uniform, identity = torch.full((6, 6), 1 / 6, dtype=F64), torch.eye(6, dtype=F64)
    found = co.information_flow_metrics(torch.stack([uniform, identity]), TILES)
    torch.testing.assert_close(found.entropy[0], torch.full((6,), math.log(6), dtype=F64))
    torch.testing.assert_close(found.tile_density, torch.tensor([[1.0] * 3, [0.0] * 3], dtype=F64))
    assert not found.entropy[1].any()
    torch.testing.assert_close(found.participation, torch.tensor([[1.0] * 6, [1 / 6] * 6], dtype=F64))
    shares = torch.tensor([3, 2, 1], dtype=F64) / 6
    torch.testing.assert_close(found.tile_flow[0], torch.outer(shares, shares))
    torch.testing.assert_close(
        found.cross_share, torch.stack([1 - shares.square().sum(), torch.tensor(0.0, dtype=F64)])
    )
    torch.testing.assert_close(found.edge_utilisation, torch.tensor([0.0, 1 / 6], dtype=F64))


@settings(max_examples=20, derandomize=True, deadline=None)
@given(st.integers(0, 2**32))
def test_flow_sums_to_one(seed: int) -> None:
    attention = torch.randn(2, 3, 6, 6, generator=torch_generator(seed), dtype=F64).mul(2).softmax(-1)
    found = co.information_flow_metrics(attention, TILES)
    torch.testing.assert_close(found.tile_flow.sum((-2, -1)), torch.ones(2, 3, dtype=F64), rtol=0, atol=1e-14)
    assert bool((found.entropy <= math.log(6) + 1e-14).all())
    assert bool((found.participation >= 1 / 6 - 1e-14).all())
    rolled = co.attention_rollout(attention[0])
    torch.testing.assert_close(rolled.sum(-1), torch.ones(6, dtype=F64), rtol=0, atol=1e-14)
    eye = torch.eye(6, dtype=F64)
    expected = (attention[0, 2] + eye) @ (attention[0, 1] + eye) @ (attention[0, 0] + eye) / 8
    torch.testing.assert_close(rolled, expected)


@pytest.mark.parametrize("error", [0.1, pytest.param(0.3, marks=pytest.mark.slow)])
def test_transfer_entropy_of_a_noisy_copy(error: float) -> None:
    length = 10_000
    generator = torch_generator(3)
    source = torch.randint(0, 2, (length,), generator=generator)
    flips = (torch.rand(length, generator=generator, dtype=F64) < error).to(torch.int64)
    target = torch.zeros_like(source)
    target[1:] = source[:-1] ^ flips[1:]
    # 4 sigma: the estimate is a mean of log ratios, of deviation at most ln((1 - e) / e) / 2 over sqrt(length)
    allowed = 4 * 0.5 * math.log((1 - error) / error) / math.sqrt(length) + 1e-4
    assert float(co.transfer_entropy(source, target)) == pytest.approx(math.log(2) - entropy_of(error), abs=allowed)
    assert float(co.transfer_entropy(target, source)) < 10 / length  # a chi-square of two over 2 T
    assert float(co.transfer_entropy(target, source, history=3)) < 40 / length


def test_gaussian_transfer_entropy() -> None:
    length, gain = 20_000, 0.8
    x, noise = torch.randn(2, length, generator=torch_generator(4), dtype=F64)
    y = noise.clone()
    y[1:] += gain * x[:-1]
    expected = 0.5 * math.log(1 + gain**2)
    assert float(co.gaussian_transfer_entropy(x, y)) == pytest.approx(expected, abs=4 / math.sqrt(length))
    assert abs(float(co.gaussian_transfer_entropy(y, x))) < 10 / length
    with pytest.raises(GeometryError, match="variance"):
        co.gaussian_transfer_entropy(x, torch.ones(length, dtype=F64))


def test_stability_of_attention() -> None:
    inputs = torch.randn(5, 3, generator=torch_generator(5), dtype=F64)
    still = co.attention_stability(lambda x: torch.full((5, 5), 0.2, dtype=F64), inputs, noise=0.1, seed=0)
    assert not still.any()

    def attend(x: Tensor) -> Tensor:
        return (x @ x.T).softmax(-1)

    small, large = (co.attention_stability(attend, inputs, noise=n, seed=0) for n in (1e-4, 1e-5))
    torch.testing.assert_close(small, large, rtol=2e-3, atol=0)  # the slope: linear in the noise to first order
    assert small.shape == (5,)


@pytest.mark.parametrize(("p", "q"), [(0.3, 0.2), (0.9, 0.8), (0.05, 0.5)])
def test_two_state_chain(p: float, q: float) -> None:
    found = co.ergodic_analysis(torch.tensor([[1 - p, p], [q, 1 - q]], dtype=F64))
    assert isinstance(found, co.MarkovReport)
    assert found.kemeny == pytest.approx(1 / (p + q), rel=1e-12)
    assert found.spectral_gap == pytest.approx(1 - abs(1 - p - q), rel=1e-12)
    torch.testing.assert_close(found.stationary, torch.tensor([q, p], dtype=F64) / (p + q))
    rate = (q * entropy_of(p) + p * entropy_of(q)) / (p + q)
    assert found.entropy_rate == pytest.approx(rate, rel=1e-12)
    law, power = found.stationary, torch.tensor([[1 - p, p], [q, 1 - q]], dtype=F64)
    after = torch.linalg.matrix_power(power, math.ceil(found.mixing_steps))
    assert 0.5 * (after - law).abs().sum(1).max() <= 0.25 + 1e-12


@settings(max_examples=15, derandomize=True, deadline=None)
@given(st.integers(0, 2**32))
def test_any_chain_has_mixed_by_the_bound(seed: int) -> None:
    chain = torch.randn(5, 5, generator=torch_generator(seed), dtype=F64).mul(2).softmax(-1)
    found = co.markov_analysis(chain)
    torch.testing.assert_close(found.stationary @ chain, found.stationary, rtol=0, atol=1e-13)
    after = torch.linalg.matrix_power(chain, math.ceil(found.mixing_steps))
    assert 0.5 * (after - found.stationary).abs().sum(1).max() <= 0.25 + 1e-9


def test_chains_at_the_edge() -> None:
    ring = torch.eye(4, dtype=F64).roll(1, 0)
    periodic = co.markov_analysis(ring)
    assert periodic.spectral_gap == pytest.approx(0, abs=1e-12)
    assert periodic.mixing_steps == math.inf
    assert periodic.entropy_rate == 0
    transient = co.markov_analysis(torch.tensor([[0.5, 0.5], [0.0, 1.0]], dtype=F64))
    assert transient.stationary.tolist() == [0.0, 1.0]
    assert transient.mixing_steps == math.inf
    assert co.markov_analysis(torch.ones(1, 1, dtype=F64)).mixing_steps == 0
    assert co.markov_analysis(torch.full((3, 3), 1 / 3, dtype=F64)).mixing_steps == 1


def starts(seed: int, count: int, n: int) -> Tensor:
    return 0.1 + 0.8 * torch.rand(count, n, generator=torch_generator(seed), dtype=F64)


def test_lyapunov_of_the_logistic_map() -> None:
    found = co.ergodic_analysis(lambda x: 4 * x * (1 - x), starts(0, 500, 1), steps=200)
    assert isinstance(found, co.MapReport)
    assert float(found.lyapunov) == pytest.approx(math.log(2), abs=4 * 0.9 / 200)  # edge terms bound an orbit's error
    assert float(found.birkhoff) == pytest.approx(0.5, abs=4 * math.sqrt(1 / 8 / (500 * 200)))


@pytest.mark.slow
def test_lyapunov_of_henon() -> None:
    def henon(x: Tensor) -> Tensor:
        return torch.stack([1 - 1.4 * x[0] ** 2 + x[1], 0.3 * x[0]])

    found = co.lyapunov_spectrum(henon, 0.1 * starts(1, 200, 2), steps=400)
    assert float(found.sum()) == pytest.approx(math.log(0.3), abs=1e-12)
    assert float(found[0]) == pytest.approx(0.419, abs=0.01)  # 80000 samples; the published value has three digits


@pytest.mark.slow
def test_lyapunov_of_the_cat_map() -> None:
    cat = torch.tensor([[2.0, 1.0], [1.0, 1.0]], dtype=F64)
    found = co.lyapunov_spectrum(lambda x: (cat @ x).remainder(1.0), starts(2, 3, 2), steps=400)
    expected = math.log((3 + math.sqrt(5)) / 2)
    torch.testing.assert_close(found, torch.tensor([expected, -expected], dtype=F64), rtol=0, atol=1 / 400)


@pytest.mark.parametrize("push", [0.0, 10.0])
@pytest.mark.slow
def test_stability_of_a_pattern(push: float) -> None:
    matrix = torch.tensor([[-1.0, push], [0.0, -2.0]], dtype=F64)
    found = co.pattern_stability_measures(torch.zeros(2, dtype=F64), lambda x: matrix @ x, steps=200)
    assert found.stable
    assert found.spectral_abscissa == pytest.approx(-1)
    assert found.return_time == pytest.approx(1)
    assert found.numerical_abscissa == pytest.approx(-1.5 + 0.5 * math.sqrt(1 + push**2))
    assert (found.numerical_abscissa > 0) == (push > 1)  # grows at first, although stable
    near = torch.tensor([-1.0, -2.0], dtype=F64)
    torch.testing.assert_close(
        found.lyapunov, near, rtol=0, atol=0.3 if push else 2e-6
    )  # ln(10) / 10 as frames turn; RK4


def test_an_unstable_pattern() -> None:
    found = co.pattern_stability_measures(torch.zeros(1, dtype=F64), lambda x: x - x**3, steps=20)
    assert not found.stable
    assert (found.spectral_abscissa, found.return_time) == (1.0, math.inf)


UNIFORM = torch.full((4, 4), 0.25, dtype=F64)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: co.information_flow_metrics(2 * UNIFORM, torch.tensor([0, 0, 1, 1])), "sums to 2"),
        (lambda: co.information_flow_metrics(UNIFORM - torch.eye(4), torch.tensor([0, 0, 1, 1])), "-0.75"),
        (lambda: co.information_flow_metrics(UNIFORM, torch.tensor([0, 0, 2, 2])), "tiles"),
        (lambda: co.information_flow_metrics(UNIFORM, torch.tensor([0, 0])), "tiles"),
        (lambda: co.transfer_entropy(torch.ones(5), torch.ones(4)), "series"),
        (lambda: co.gaussian_transfer_entropy(torch.ones(5), torch.ones(5)), "series"),
        (lambda: co.attention_stability(lambda x: x, UNIFORM, noise=0.0, seed=0), "noise 0"),
        (lambda: co.markov_analysis(torch.eye(3, dtype=F64)), "several recurrent"),
        (lambda: co.markov_analysis(UNIFORM.expand(2, 4, 4)), "no single chain"),
        (lambda: co.ergodic_analysis(lambda x: x), "starting points"),
        (lambda: co.lyapunov_spectrum(lambda x: x, torch.ones(3), steps=5), "starts"),
        (lambda: co.birkhoff_average(lambda x: x * 1e9, torch.ones(1, 1, dtype=F64), steps=5), "orbit is inf"),
        (lambda: co.pattern_stability_measures(torch.tensor([math.nan]), lambda x: x), "nan"),
    ],
)
def test_bad_input(call, says: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(GeometryError, match=says):
        call()
