"""The gate sees jumps and what is no number; the temperature never comes to nought; the clocks nest."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from targets.errors import InvalidInput
from toolkit.rng import numpy_generator
from toolkit.training.organism.stability import Annealing, LossGate, Smoothed, finite_check, spread
from toolkit.training.organism.timescales import Timescales


def falling(count: int, seed: int = 0) -> list[float]:
    """A cross entropy as it falls, with the scatter of batches."""
    noise = numpy_generator(seed, "losses").normal(0, 0.03, count)
    return [2.0 + 2.0 * math.exp(-k / 200) + float(n) for k, n in enumerate(noise)]


def test_a_training_that_goes_well_never_closes_the_gate() -> None:
    gate = LossGate()
    assert all(gate.see(loss) for loss in falling(600))
    assert gate.is_open
    assert gate.closings == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), 8.0])
def test_a_jump_or_no_number_closes_it_until_enough_good_steps_in_a_row(bad: float) -> None:
    gate = LossGate(cooldown=30)
    for loss in falling(300):
        gate.see(loss)
    assert not gate.see(bad)
    assert not gate.is_open
    for loss in falling(600)[500:529]:
        gate.see(loss)
        assert not gate.is_open
    gate.see(2.0)
    assert gate.is_open
    assert gate.closings == 1


def test_a_cross_entropy_three_times_too_high_is_a_jump_though_no_tenfold_one() -> None:
    """Ten times the mean is out of its reach: the spread sees what the ratio cannot."""
    gate = LossGate(deviations=1e9)
    for loss in falling(300):
        gate.see(loss)
    assert gate.see(6.0)
    gate = LossGate()
    for loss in falling(300):
        gate.see(loss)
    assert not gate.see(6.0)


def test_no_number_closes_it_from_the_first_step_on() -> None:
    gate = LossGate()
    assert not gate.see(float("nan"))
    assert not gate.is_open


def test_a_level_that_has_risen_for_good_is_learnt() -> None:
    gate = LossGate(cooldown=20)
    for loss in falling(600):
        gate.see(loss)
    outcomes = [gate.see(5.0) for _ in range(2000)]
    assert not outcomes[0]
    assert outcomes[-1]
    assert gate.is_open


def test_a_gate_goes_on_from_its_state_to_the_same_answers() -> None:
    losses = [*falling(150), float("nan"), *falling(150, seed=1)]
    whole, first, second = LossGate(cooldown=20), LossGate(cooldown=20), LossGate(cooldown=20)
    wanted = [(whole.see(loss), whole.is_open) for loss in losses]
    found = [(first.see(loss), first.is_open) for loss in losses[:170]]
    second.load(first.state())
    assert [*found, *((second.see(loss), second.is_open) for loss in losses[170:])] == wanted


@given(st.floats(-1e6, 1e6), st.integers(1, 50), st.floats(0.01, 0.99))
def test_the_smoothed_mean_of_a_constant_is_that_constant(value: float, count: int, decay: float) -> None:
    mean = Smoothed(decay)
    for _ in range(count):
        mean.add(value)
    assert mean.value == pytest.approx(value, rel=1e-9, abs=1e-9)


def test_the_spread_is_that_of_a_normal_distribution_and_does_not_see_outliers() -> None:
    values = numpy_generator(0, "spread").normal(3, 2, 4001)
    assert spread(values.tolist()) == pytest.approx(2, rel=0.05)
    assert spread([*values.tolist(), *[1e9] * 40]) == pytest.approx(2, rel=0.08)
    assert spread([]) == spread([4.0]) == 0


@given(st.integers(0, 5000), st.integers(1, 2000))
def test_the_temperature_falls_and_never_reaches_nought(step: int, steps: int) -> None:
    annealing = Annealing(steps=steps, floor=0.02)
    assert annealing.temperature(step) >= annealing.temperature(step + 1) >= 0.02
    assert annealing.temperature(steps) == 0.02


@given(st.floats(-10, 10), st.floats(0, 10), st.integers(0, 100))
def test_what_is_better_is_taken_and_what_is_worse_ever_less(shortfall: float, more: float, step: int) -> None:
    annealing = Annealing(steps=100)
    here, worse = annealing.acceptance(shortfall, step), annealing.acceptance(shortfall + more, step)
    assert 0 <= worse <= here <= 1
    assert here == 1 or shortfall > 0


def test_acceptance_by_hand() -> None:
    annealing = Annealing(start=2.0, steps=100)
    assert annealing.acceptance(1.0, 50) == pytest.approx(math.exp(-1))
    assert annealing.acceptance(float("inf"), 50) == 0


def test_three_thousand_and_one_steps_call_each_clock_as_often_as_it_is_due() -> None:
    clocks = Timescales()
    seen = [name for step in range(3001) for name in clocks.due(step)]
    assert [seen.count(name) for name in ("fast", "medium", "slow")] == [3000, 30, 3]
    assert clocks.due(2000) == ("fast", "medium", "slow")
    assert clocks.due(0) == ()


def test_finite_check_looks_at_every_tensor() -> None:
    good = [torch.ones(3), torch.zeros(()), torch.empty(0)]
    assert finite_check(good)
    assert finite_check([])
    assert not finite_check([*good, torch.tensor([1.0, np.nan])])
    assert not finite_check([*good, torch.tensor([-np.inf])])


def test_what_means_nothing_is_refused() -> None:
    for refused in (
        lambda: LossGate(ratio=1.0),
        lambda: LossGate(window=3),
        lambda: Annealing(steps=0),
        lambda: Annealing(steps=10, floor=0.0),
        lambda: Timescales(1, 100, 250),
        lambda: Timescales(0, 100, 1000),
    ):
        with pytest.raises(InvalidInput):
            refused()
