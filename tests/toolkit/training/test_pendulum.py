"""Swings of a pendulum: beside scipy's integrator, energy, range, refusals."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from targets.errors import InvalidInput
from toolkit.training.pendulum import pendulum_energy, pendulum_states


def test_swings_are_those_of_scipy() -> None:
    states = pendulum_states(3, 21).numpy()
    for swing in states:
        times = np.arange(21) * 0.1
        peer = solve_ivp(lambda _, x: [x[1], -np.sin(x[0])], (0, 2), swing[0], "DOP853", times, rtol=1e-12, atol=1e-12)
        assert np.abs(peer.y.T - swing).max() < 1e-9


@pytest.mark.slow
def test_energy_stays_and_no_swing_goes_higher() -> None:
    states = pendulum_states(60, 10, highest=1.5)
    energy = pendulum_energy(states)
    assert float((energy - energy[:, :1]).abs().max()) < 1e-9
    assert 1.2 < float(states[..., 0].abs().max()) <= 1.5
    assert torch.equal(states, pendulum_states(60, 10, highest=1.5))
    assert not torch.equal(states, pendulum_states(60, 10, highest=1.5, seed=1))


@pytest.mark.parametrize("wrong", [{"count": 0}, {"length": 0}, {"step_s": 0.0}, {"highest": 3.2}])
def test_what_does_not_swing_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match="no pendulum swings"):
        pendulum_states(**{"count": 1, "length": 2, **wrong})  # type: ignore[arg-type]
