"""Koopman learning: eigenvalues of a linear system, the pendulum beside a linear model, stages, losses, refusals."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor

from targets.errors import InvalidInput
from toolkit.rng import torch_generator
from toolkit.training.dmd import edmd
from toolkit.training.koopman import KoopmanNetwork, Schedule, Stage, StagedTraining, multi_step_losses
from toolkit.training.pendulum import pendulum_states

STAGED = Schedule(warm_up=5, hybrid=15, koopman=1)


def trained(windows: Tensor, schedule: Schedule, observables: int = 16, rate: float = 5e-3) -> KoopmanNetwork:
    model = KoopmanNetwork(windows.shape[2], observables)
    training = StagedTraining(model, torch.optim.Adam(model.parameters(), lr=rate), schedule)
    order = torch_generator(0, "test", "order")
    for epoch in range(schedule.epochs):
        training.optimizer.param_groups[0]["lr"] = rate * (1 - epoch / schedule.epochs)
        for chosen in torch.randperm(len(windows), generator=order).split(64):
            training.batch(epoch, windows[chosen])
    return model


def swings(count: int = 64, length: int = 41) -> Tensor:
    """Windows of 11 states."""
    return pendulum_states(count, length, seed=1).float().unfold(1, 11, 2).movedim(-1, 2).flatten(0, 1)


def error(predicted: Tensor, truth: Tensor) -> float:
    return (predicted.detach() - truth).square().mean().sqrt().item()


@pytest.mark.slow
def test_on_a_pendulum_ten_steps_are_five_times_better_than_a_linear_model() -> None:
    windows, asked = swings(), pendulum_states(100, 11, seed=2).float()
    linear = edmd(windows[:, :-1].flatten(0, 1), windows[:, 1:].flatten(0, 1))
    states = [asked[:, 0]]
    for _ in range(10):
        states.append(states[-1] @ linear.t())
    predicted = trained(windows, STAGED).predict(asked[:, 0], 10)
    assert error(predicted, asked[:, 1:]) < error(torch.stack(states[1:], 1), asked[:, 1:]) / 5
    assert error(predicted[:, 9], asked[:, 10]) < error(states[10], asked[:, 10]) / 5


def test_on_a_linear_system_the_operator_has_its_eigenvalues() -> None:
    """The state is among the observables, and what else is lifted decays or is linear in it too."""
    turn = torch.tensor([[0.9, 0.3], [-0.3, 0.9]])
    states = [torch.randn(200, 2, generator=torch_generator(0, "test"))]
    for _ in range(5):
        states.append(states[-1] @ turn.t())
    model = trained(torch.stack(states, 1), STAGED, observables=4)
    found = torch.linalg.eigvals(model.operator.detach())
    for value in (0.9 + 0.3j, 0.9 - 0.3j):
        assert float((found - value).abs().min()) < 1e-3


def test_losses_are_those_of_the_paper_spelled_out() -> None:
    model, windows = KoopmanNetwork(2, 5), swings(3, 12)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch_generator(0, "test", *p.shape)))
        losses = multi_step_losses(model, windows)
        k, lifted = model.operator, model.lift(windows)
        states, predictions, linearities = [], [], []
        for t in range(windows.shape[1]):
            ahead = lifted[:, 0] @ torch.linalg.matrix_power(k, t).t()
            states.append((model.inverse(lifted[:, t]) - windows[:, t]).square().mean())
            if t:
                predictions.append((model.inverse(ahead) - windows[:, t]).square().mean())
                linearities.append((ahead - lifted[:, t]).square().mean())
    torch.testing.assert_close(losses.state, torch.stack(states).mean())
    torch.testing.assert_close(losses.prediction, torch.stack(predictions).mean())
    torch.testing.assert_close(losses.linearity, torch.stack(linearities).mean())
    weighted = losses.total(state=2.0, prediction=0.0, linearity=3.0)
    torch.testing.assert_close(weighted, 2 * losses.state + 3 * losses.linearity)


def test_each_stage_moves_what_it_says() -> None:
    windows = swings(4, 12)
    schedule = Schedule(warm_up=1, hybrid=1, koopman=1)
    model = KoopmanNetwork(2, 6)
    training = StagedTraining(model, torch.optim.SGD(model.parameters(), lr=0.1), schedule)
    moved = []
    for epoch in range(3):
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        assert training.batch(epoch, windows) is list(Stage)[epoch]
        moved.append({name.split(".")[0] for name, p in model.named_parameters() if not torch.equal(before[name], p)})
    assert moved == [{"operator", "observe", "correct"}, {"operator", "observe", "correct"}, {"operator"}]


def test_the_koopman_stage_is_edmd_of_all_its_batches() -> None:
    windows = swings(8, 12)
    model = KoopmanNetwork(2, 4)
    training = StagedTraining(
        model, torch.optim.SGD(model.parameters(), lr=0.1), Schedule(warm_up=0, hybrid=0, koopman=1), ridge=1e-3
    )
    for part in windows.split(5):
        training.batch(0, part)
    before, after = (w.flatten(0, 1).double() for w in (windows[:, :-1], windows[:, 1:]))
    with torch.no_grad():
        batch = edmd(before, after, lambda x: model.lift(x.float()).double(), ridge=1e-3)
    torch.testing.assert_close(model.operator.detach().double(), batch, rtol=1e-4, atol=1e-4)


def test_the_schedule_goes_through_its_stages_and_stays_in_the_last() -> None:
    schedule = Schedule(warm_up=2, hybrid=1, koopman=1)
    assert [schedule.stage(epoch).value for epoch in range(6)] == [
        "warm-up", "warm-up", "hybrid", "koopman", "koopman", "koopman",
    ]  # fmt: skip
    assert Schedule(warm_up=1, hybrid=0, koopman=0).stage(9) is Stage.WARM_UP
    assert Schedule(warm_up=1, hybrid=1, koopman=0).stage(9) is Stage.HYBRID


def test_untrained_it_stands_still_and_equal_seeds_are_equal() -> None:
    before = torch.random.get_rng_state()
    x = swings(2, 12)
    model, again, other = KoopmanNetwork(2, 5), KoopmanNetwork(2, 5), KoopmanNetwork(2, 5, seed=1)
    torch.testing.assert_close(model(x), x)
    assert torch.equal(model.lift(x), again.lift(x))
    assert not torch.equal(model.lift(x), other.lift(x))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("cut", [pytest.param(1, marks=pytest.mark.slow), 3, pytest.param(5, marks=pytest.mark.slow)])
def test_a_training_that_was_cut_off_goes_on_to_the_same_bits(cut: int) -> None:
    windows, schedule = swings(4, 20).split(8), Schedule(warm_up=2, hybrid=2, koopman=2)

    def fresh() -> StagedTraining:
        model = KoopmanNetwork(2, 6)
        return StagedTraining(model, torch.optim.Adam(model.parameters(), lr=0.01), schedule)

    whole, first, second = fresh(), fresh(), fresh()
    for epoch in range(6):
        for part in windows:
            whole.batch(epoch, part)
            (first if epoch < cut else second).batch(epoch, part)
        if epoch == cut - 1:
            second.load_state_dict(deepcopy(first.state_dict()))
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name


@pytest.mark.slow
def test_it_exports() -> None:
    model, x = KoopmanNetwork(2, 6).eval(), swings(2, 12)[:, 0]
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), model(x))


@pytest.mark.parametrize(
    ("windows", "said"),
    [
        (torch.zeros(3, 1, 2), r"windows are \(B, T >= 2, 2\)"),
        (torch.zeros(0, 4, 2), "windows are"),
        (torch.zeros(3, 4, 3), "windows are"),
        (torch.full((3, 4, 2), float("nan")), "NaN or infinity"),
    ],
)
@pytest.mark.parametrize("epoch", [0, 1, 2])
def test_windows_that_do_not_fit_are_refused_in_every_stage(windows: Tensor, said: str, epoch: int) -> None:
    model = KoopmanNetwork(2, 3)
    schedule = Schedule(warm_up=1, hybrid=1, koopman=1)
    with pytest.raises(InvalidInput, match=said):
        StagedTraining(model, torch.optim.SGD(model.parameters(), lr=0.1), schedule).batch(epoch, windows)


def test_networks_and_schedules_that_cannot_be_are_refused() -> None:
    with pytest.raises(InvalidInput, match="2 numbers are not lifted to 2"):
        KoopmanNetwork(2, 2)
    with pytest.raises(InvalidInput, match=r"through \[\]"):
        KoopmanNetwork(2, 4, hidden=())
    with pytest.raises(InvalidInput, match="states are"):
        KoopmanNetwork(2, 4)(torch.zeros(3))
    with pytest.raises(InvalidInput, match="0 steps lead nowhere"):
        KoopmanNetwork(2, 4).predict(torch.zeros(1, 2), 0)
    with pytest.raises(InvalidInput, match="trains nothing"):
        Schedule(warm_up=0, hybrid=0, koopman=0)
    with pytest.raises(InvalidInput, match="trains nothing"):
        Schedule(warm_up=-1, hybrid=1, koopman=1)
