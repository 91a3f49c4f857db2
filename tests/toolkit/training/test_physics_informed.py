"""Learned mechanics: slopes beside autograd, reversibility, volume, energy, a pendulum beside a plain network, λ."""

import copy

import pytest
import torch
from torch import Tensor, nn

from targets.errors import InvalidInput
from toolkit.rng import torch_generator
from toolkit.training.pendulum import pendulum_energy, pendulum_states
from toolkit.training.physics_informed import EnergyConstraint, HamiltonianLayer, drift


def layer(step: float = 0.1, **settings: object) -> HamiltonianLayer:
    return HamiltonianLayer(3, hidden=16, step=step, seed=2, **settings).double()  # type: ignore[arg-type]


def states(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch_generator(0, "test"), dtype=torch.float64)


def test_motion_follows_the_slopes_of_the_energy() -> None:
    model, x = layer(), states(5, 6).requires_grad_()
    of_q, of_p = torch.autograd.grad(model.energy(x).sum(), x)[0].chunk(2, -1)
    torch.testing.assert_close(model.field(x), torch.cat((of_p, -of_q), -1))


def test_motion_goes_back_where_it_came_from() -> None:
    model, x = layer(steps=20), states(4, 7, 6)
    there = model(x)
    assert (there - x).abs().max().item() > 0.1
    model.step = -model.step
    torch.testing.assert_close(model(there), x, rtol=0, atol=1e-12)


def test_the_leapfrog_keeps_volume_and_euler_does_not() -> None:
    x = states(6)
    for integrator, kept in (("leapfrog", True), ("euler", False)):
        model = layer(0.5, steps=5, integrator=integrator)
        with torch.no_grad():
            for p in model.parameters():
                p.mul_(3)
        jacobian = torch.autograd.functional.jacobian(model, x)
        assert (abs(float(torch.linalg.det(jacobian)) - 1) < 1e-10) is kept


def test_energy_does_not_run_away_and_half_the_step_has_a_quarter_of_the_error() -> None:
    x = states(8, 6) / 4
    worst = []
    for step in (0.2, 0.1):
        model = layer(step)
        with torch.no_grad():
            before, after = model.energy(x), model.energy(model.roll(x, round(10 / step)).movedim(-2, 0))
        worst.append(float((after - before).abs().max()))
    assert worst[0] / worst[1] == pytest.approx(4, rel=0.15)


def rolled_error(step: nn.Module, truth: Tensor) -> float:
    """Root mean square over 10 steps from the first state."""
    x, found = truth[:, 0], []
    with torch.no_grad():
        for _ in range(10):
            x = step(x)
            found.append(x)
    return float((torch.stack(found, 1) - truth[:, 1:11]).square().mean().sqrt())


class _Residual(nn.Module):
    """As many weights, told nothing."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(2, 44), nn.Tanh(), nn.Linear(44, 44), nn.Tanh(), nn.Linear(44, 2))

    def forward(self, x: Tensor) -> Tensor:
        moved: Tensor = x + 0.1 * self.net(x)
        return moved


def fit(model: nn.Module, data: Tensor, steps: int = 600) -> nn.Module:
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    before, after = data[:, :-1].flatten(0, 1), data[:, 1:].flatten(0, 1)
    for _ in range(steps):
        optimizer.zero_grad()
        (100 * (model(before) - after)).square().mean().backward()
        optimizer.step()
        schedule.step()
    return model


@pytest.mark.slow
def test_on_a_pendulum_it_errs_and_drifts_less_than_a_network_of_its_size() -> None:
    data = pendulum_states(40, 12, seed=1).float()
    data = data + 0.01 * torch.randn(data.shape, generator=torch_generator(0, "noise"))
    asked = pendulum_states(50, 101, seed=2).float()
    ours, plain = fit(HamiltonianLayer(1, step=0.1), data), fit(_Residual(), data)
    sizes = [sum(p.numel() for p in model.parameters()) for model in (ours, plain)]
    assert 0.9 < sizes[0] / sizes[1] < 1.1
    assert rolled_error(ours, asked) < rolled_error(plain, asked) / 1.5
    drifts = []
    for model in (ours, plain):
        x = asked[:, 0]
        with torch.no_grad():
            for _ in range(100):
                x = model(x)
        drifts.append(float(drift(pendulum_energy(asked[:, 0]), pendulum_energy(x)).square().mean().sqrt()))
    assert drifts[0] < drifts[1] / 3


def test_the_multiplier_grows_while_energy_drifts_and_rests_when_it_does_not() -> None:
    constraint = EnergyConstraint(start=0.5, allowed=0.01)
    assert constraint.multiplier.item() == pytest.approx(0.5)
    before = torch.linspace(0, 1, 50)
    optimizer = torch.optim.SGD(constraint.parameters(), lr=1.0)
    seen = []
    for shift in (1.0, 0.0):
        optimizer.zero_grad()
        constraint(before, before + shift).backward()
        optimizer.step()
        seen.append(constraint.multiplier.item())
    assert seen[0] > 0.5
    assert seen[1] < seen[0]


@pytest.mark.slow
def test_with_the_constraint_euler_learns_to_drift_less() -> None:
    model = HamiltonianLayer(1, hidden=16, steps=4, step=0.3, integrator="euler", seed=1)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3)
    constrained, start = copy.deepcopy(model), pendulum_states(64, 1).float()[:, 0]
    target, constraint = model(start).detach(), EnergyConstraint(start=1.0, allowed=0.0)
    drifts = []
    for learner, held in ((model, None), (constrained, constraint)):
        optimizer = torch.optim.Adam([*learner.parameters(), *constraint.parameters()], lr=0.02)
        for _ in range(80):
            optimizer.zero_grad()
            after = learner(start)
            loss = (after - target).square().mean()
            if held is not None:
                loss = loss + held(learner.energy(start), learner.energy(after))
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            drifts.append(drift(learner.energy(start), learner.energy(learner(start))).square().mean().sqrt().item())
    print(drifts, constraint.multiplier)
    assert drifts[1] < drifts[0] / 2
    assert constraint.multiplier.item() > 1.0


@pytest.mark.slow
def test_it_exports() -> None:
    model, x = layer(steps=2).eval(), states(2, 6)
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x), model(x))


def test_equal_seeds_give_equal_layers_and_leave_the_generator() -> None:
    before = torch.random.get_rng_state()
    assert torch.equal(layer()(states(1, 6)), layer()(states(1, 6)))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"n": 0}, "nothing moves with n = 0"),
        ({"step": 0.0}, "1 steps of 0.0"),
        ({"step": float("nan")}, "steps of nan"),
        ({"steps": 0}, "0 steps"),
        ({"hidden": 0}, r"hidden \(0, 0\)"),
        ({"integrator": "magic"}, "unknown integrator 'magic'"),
    ],
)
def test_layers_that_cannot_move_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        HamiltonianLayer(**{"n": 2, **settings})  # type: ignore[arg-type]


def test_states_energies_and_constraints_that_cannot_be_are_refused() -> None:
    for x in (torch.zeros(2, 5), torch.zeros(0, 6), torch.tensor(1.0)):
        with pytest.raises(InvalidInput, match="a state has 3 positions and 3 momenta"):
            layer()(x)
    with pytest.raises(InvalidInput, match="have no drift"):
        drift(torch.zeros(2), torch.zeros(3))
    with pytest.raises(InvalidInput, match="starts at λ = 0"):
        EnergyConstraint(start=0)
    with pytest.raises(InvalidInput, match="allows -1"):
        EnergyConstraint(allowed=-1)
