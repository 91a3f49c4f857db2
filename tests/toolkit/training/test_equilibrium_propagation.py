"""Equilibrium propagation: states of rest, gradients beside autograd's through the fixed point, digits, refusals."""

import pytest
import torch
from torch import Tensor

from targets.errors import InvalidInput
from toolkit.models.digits import split
from toolkit.rng import torch_generator
from toolkit.training.equilibrium_propagation import EnergyNetwork, EquilibriumPropagation


def network(seed: int = 1, sizes: tuple[int, ...] = (64, 32, 10)) -> EnergyNetwork:
    """In float64, and let to come to rest entirely."""
    return EnergyNetwork(sizes, seed=seed, iterations=3000, tolerance=1e-13).double()


def some_digits(count: int) -> tuple[Tensor, Tensor]:
    (images, labels), _ = split()
    return torch.from_numpy(images[:count]).flatten(1).double(), torch.eye(10).double()[
        torch.from_numpy(labels[:count])
    ]


def flat(model: EnergyNetwork) -> Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def backpropagated(model: EnergyNetwork, x: Tensor, target: Tensor) -> Tensor:
    model.zero_grad()
    ((model(x) - target).square().sum(1).mean() / 2).backward()
    return flat(model)


def estimated(model: EnergyNetwork, x: Tensor, target: Tensor, beta: float, *, symmetric: bool) -> Tensor:
    EquilibriumPropagation(beta=beta, iterations=3000, symmetric=symmetric).gradients(model, x, target)
    return flat(model)


@pytest.mark.parametrize("sizes", [(64, 32, 10), pytest.param((64, 24, 16, 10), marks=pytest.mark.slow)])
@pytest.mark.parametrize("symmetric", [False, True])
def test_small_nudges_give_the_gradient(symmetric: bool, sizes: tuple[int, ...]) -> None:
    model, (x, target) = network(sizes=sizes), some_digits(16)
    truth = backpropagated(model, x, target)
    for beta in (0.001, -0.001, 0.0001):
        found = estimated(model, x, target, beta, symmetric=symmetric)
        assert float(torch.cosine_similarity(truth, found, 0)) >= 0.99
        assert float(found.norm() / truth.norm()) == pytest.approx(1, abs=0.03)


def test_the_error_is_of_order_beta_and_beta_squared_where_nothing_clamps() -> None:
    model = network(seed=3, sizes=(6, 5, 3))
    with torch.no_grad():
        for parameters, value in ((model.weights, None), (model.biases, 0.5)):
            for p in parameters:
                p.copy_(p * 0.3 if value is None else torch.full_like(p, value))
    rng = torch_generator(0, "test")
    x, target = torch.rand(8, 6, generator=rng).double() / 4, torch.rand(8, 3, generator=rng).double()
    assert all(bool(((s > 0) & (s < 1)).all()) for s in model.settle(x))
    truth = backpropagated(model, x, target)
    for symmetric, order in ((False, 1), (True, 2)):
        coarse, fine = (
            float((estimated(model, x, target, beta, symmetric=symmetric) - truth).norm()) for beta in (0.2, 0.1)
        )
        assert coarse / fine == pytest.approx(2**order, rel=0.15)


def test_rest_is_where_the_energy_is_least() -> None:
    model, (x, _) = network(), some_digits(8)
    rest = model.settle(x)
    least = model.energy(x, rest)
    rng = torch_generator(0, "test")
    for size in (0.3, 0.03):
        for _ in range(20):
            moved = tuple((s + size * torch.randn(s.shape, generator=rng).double()).clamp(0, 1) for s in rest)
            assert bool((model.energy(x, moved) >= least - 1e-9).all())


def test_samples_settle_alone() -> None:
    model, (x, _) = network(), some_digits(6)
    together = model(x)
    for i in range(6):
        torch.testing.assert_close(model(x[i : i + 1])[0], together[i], rtol=0, atol=1e-10)


def test_equal_seeds_give_equal_weights_and_leave_the_generator() -> None:
    before = torch.random.get_rng_state()
    a, b, other = (torch.cat([p.flatten() for p in network(seed).parameters()]) for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, other)
    assert torch.equal(before, torch.random.get_rng_state())


def test_with_a_fixed_number_of_iterations_it_exports() -> None:
    model, x = EnergyNetwork((64, 8, 10), iterations=5, tolerance=0), torch.rand(3, 64)
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), model(x))


@pytest.mark.slow
def test_digits_are_learnt_without_backpropagation() -> None:
    (images, labels), (test_images, test_labels) = split()
    x, target = torch.from_numpy(images).flatten(1), torch.eye(10)[torch.from_numpy(labels)]
    model = EnergyNetwork((64, 512, 10), tolerance=1e-3, iterations=40)
    rule = EquilibriumPropagation(beta=0.5, iterations=12)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    rng, epochs = torch_generator(0, "test", "order"), 30
    for epoch in range(epochs):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - epoch / epochs)
        for batch in torch.randperm(len(x), generator=rng).split(32):
            rule.gradients(model, x[batch], target[batch])
            optimizer.step()
    with torch.no_grad():
        answers = model(torch.from_numpy(test_images).flatten(1)).argmax(1)
    assert float((answers == torch.from_numpy(test_labels)).double().mean()) >= 0.97


@pytest.mark.parametrize(
    ("x", "target", "said"),
    [
        (torch.zeros(0, 64), torch.zeros(0, 10), "there are no inputs"),
        (torch.zeros(2, 63), torch.zeros(2, 10), "the network has 64 units there"),
        (torch.zeros(2, 64), torch.zeros(2, 9), "the network has 10 units there"),
        (torch.zeros(2, 64), torch.zeros(3, 10), "2 inputs have 3 targets"),
        (torch.full((2, 64), float("nan")), torch.zeros(2, 10), "inputs hold NaN"),
        (torch.zeros(2, 64), torch.full((2, 10), float("inf")), "targets hold NaN or infinity"),
    ],
)
def test_samples_that_do_not_fit_are_refused(x: Tensor, target: Tensor, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        EquilibriumPropagation().gradients(EnergyNetwork((64, 8, 10)), x, target)


@pytest.mark.parametrize("beta", [0.0, float("nan"), float("inf")])
def test_a_nudge_of_nothing_is_refused(beta: float) -> None:
    with pytest.raises(InvalidInput, match="nudges nothing"):
        EquilibriumPropagation(beta=beta)


def test_networks_and_phases_that_cannot_be_are_refused() -> None:
    with pytest.raises(InvalidInput, match=r"sizes \[64\] make no network"):
        EnergyNetwork((64,))
    with pytest.raises(InvalidInput, match="cannot settle in 0 iterations"):
        EnergyNetwork((4, 2), iterations=0)
    with pytest.raises(InvalidInput, match="with rate 0"):
        EnergyNetwork((4, 2), rate=0)
    with pytest.raises(InvalidInput, match="0 iterations move nothing"):
        EquilibriumPropagation(iterations=0)
    with pytest.raises(InvalidInput, match="nudged towards nothing"):
        EnergyNetwork((4, 2)).settle(torch.zeros(1, 4), beta=0.1)
