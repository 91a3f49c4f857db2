"""The leapfrog as an optimizer: energy of an oscillator, its order, friction beside torch's heavy ball, refusals."""

from copy import deepcopy
from itertools import pairwise
from math import exp, sin

import pytest
import torch
from torch import Tensor

from targets.errors import InvalidInput
from toolkit.training.symplectic import Symplectic


def energies(step: float, steps: int) -> Tensor:
    """(steps,) of an oscillator of frequency 1 that starts at rest in 1: the true energy is 1/2."""
    q = torch.nn.Parameter(torch.ones((), dtype=torch.float64))
    optimizer = Symplectic([q], lr=step)
    found = []
    for _ in range(steps):
        q.grad = q.detach().clone()
        potential = float(q.detach()) ** 2 / 2
        optimizer.step()
        found.append(potential + optimizer.kinetic_energy())
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.slow
def test_energy_stays_within_a_band_however_long_it_runs() -> None:
    early, late = energies(0.1, 5_000).sub(0.5).abs().split(2_500)
    assert float(early.max()) < 0.1**2 / 4
    assert float(late.max()) == pytest.approx(float(early.max()), rel=1e-3)


def test_half_the_step_has_a_quarter_of_the_error() -> None:
    errors = [float(energies(step, int(20 / step)).sub(0.5).abs().max()) for step in (0.2, 0.1, 0.05, 0.025)]
    for coarse, fine in pairwise(errors):
        assert coarse / fine == pytest.approx(4, rel=0.05)


def test_it_follows_the_oscillator() -> None:
    q = torch.nn.Parameter(torch.ones((), dtype=torch.float64))
    optimizer = Symplectic([q], lr=1e-3)
    for _ in range(1000):
        q.grad = q.detach().clone()
        optimizer.step()
    assert float(q.detach()) == pytest.approx(torch.cos(torch.tensor(1.0)).item(), abs=1e-6)


def test_with_friction_it_is_torchs_heavy_ball() -> None:
    """v ← μ v + g, q ← q − a v of torch.optim.SGD, from the second step on, with a = h² (1 + μ) / 2 and μ = e^(−γh)."""
    h, friction = 0.2, 0.7
    start = torch.tensor([2.0, -1.0], dtype=torch.float64)
    scales = torch.tensor([1.0, 3.0], dtype=torch.float64)
    ours, theirs = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    leapfrog = Symplectic([ours], lr=h, friction=friction)
    ours.grad = scales * ours.detach()
    leapfrog.step()
    rate = h * h * (1 + exp(-friction * h)) / 2  # a kick of half a step before the decay, and one behind it
    first_kick = -(ours.detach() - start)
    momentum = exp(-friction * h)
    heavy_ball = torch.optim.SGD([theirs], lr=rate, momentum=momentum)
    theirs.data.copy_(ours.detach())
    heavy_ball.state[theirs]["momentum_buffer"] = first_kick / rate
    for _ in range(50):
        for q, optimizer in ((ours, leapfrog), (theirs, heavy_ball)):
            q.grad = scales * q.detach()
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_a_schedule_changes_whole_steps() -> None:
    """Against the three lines of the docstring, where every step has a length of its own."""
    steps, friction, mass = [0.3, 0.1, 0.2, 0.05], 0.4, 2.0
    q, p = 1.5, 0.0
    for h in steps:
        decay = exp(-friction * h / 2)
        p = decay * p - h / 2 * sin(q)
        q = q + h * p / mass
        p = decay * (p - h / 2 * sin(q))
    ours = torch.nn.Parameter(torch.tensor(1.5, dtype=torch.float64))
    optimizer = Symplectic([ours], lr=1.0, friction=friction, mass=mass)
    for h in [*steps, 1.0]:
        optimizer.param_groups[0]["lr"] = h
        ours.grad = ours.detach().sin()
        reached = ours.item()
        optimizer.step()
    assert reached == pytest.approx(q, rel=1e-14)
    assert optimizer.kinetic_energy() == pytest.approx(p**2 / (2 * mass), rel=1e-12)


def test_friction_brings_it_to_rest_in_the_minimum() -> None:
    q = torch.nn.Parameter(torch.tensor([3.0, -2.0]))
    optimizer = Symplectic([q], lr=0.3, friction=1.0)
    for _ in range(200):
        optimizer.zero_grad()
        loss = (q - torch.tensor([1.0, 4.0])).square().sum() / 2
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(q.detach(), torch.tensor([1.0, 4.0]))
    assert optimizer.kinetic_energy() < 1e-10


def test_its_state_can_be_stored_and_gone_on_from() -> None:
    def go_on(q: torch.nn.Parameter, optimizer: Symplectic, steps: int) -> None:
        for _ in range(steps):
            q.grad = q.detach().sin()
            optimizer.step()

    whole = torch.nn.Parameter(torch.tensor([1.0]))
    optimizer = Symplectic([whole], lr=0.1, friction=0.1)
    go_on(whole, optimizer, 5)
    stored, state = torch.nn.Parameter(whole.detach().clone()), deepcopy(optimizer.state_dict())
    again = Symplectic([stored], lr=0.1)
    again.load_state_dict(state)
    go_on(whole, optimizer, 5)
    go_on(stored, again, 5)
    assert torch.equal(whole, stored)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"lr": 0.0}, "step of 0.0"),
        ({"lr": -1.0}, "step of -1.0"),
        ({"lr": float("nan")}, "step of nan"),
        ({"friction": -0.1}, "friction -0.1 would push"),
        ({"mass": 0.0}, "mass 0.0"),
    ],
)
def test_settings_that_lead_nowhere_are_refused(settings: dict[str, float], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        Symplectic([torch.nn.Parameter(torch.ones(1))], **settings)


def test_a_gradient_that_is_not_finite_moves_nothing() -> None:
    good, bad = torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))
    good.grad, bad.grad = torch.ones(2), torch.tensor([1.0, float("nan")])
    with pytest.raises(InvalidInput, match="a gradient is not finite"):
        Symplectic([good, bad]).step()
    assert torch.equal(good.detach(), torch.ones(2))
