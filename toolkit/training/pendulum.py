"""The swinging pendulum: trajectories with a known truth, on which learned motion is judged."""

from __future__ import annotations

import torch
from torch import Tensor

from targets.errors import InvalidInput
from toolkit.rng import torch_generator

__all__ = ["pendulum_energy", "pendulum_states"]

_FINE_S = 0.01
"""The step of the integration; its error after two seconds is below 1e-9."""


def pendulum_states(count: int, length: int, *, step_s: float = 0.1, highest: float = 2.0, seed: int = 0) -> Tensor:
    """Frictionless swings of a pendulum with g / l = 1 / s²: q̇ = p, ṗ = −sin q.

    Args:
        count: Trajectories.
        length: States of each, the first included.
        step_s: Between two states.
        highest: Angle in rad, below π, which no swing passes: energies are uniform up to there, phases arbitrary.
        seed: Of energies and phases.

    Returns:
        (count, length, 2) float64: angle q in rad, velocity p in rad / s.

    Raises:
        InvalidInput: a number is out of range.

    Source: Runge and Kutta's method of order 4 (Kutta 1901).
    """
    if min(count, length) < 1 or not step_s > 0 or not 0 < highest < torch.pi:
        raise InvalidInput(
            f"no pendulum swings {count} times for {length} states, {step_s} s apart, up to {highest} rad",
            hint="count and length from 1, step_s above 0, highest between 0 and pi",
        )
    drawn = torch.rand(2, count, dtype=torch.float64, generator=torch_generator(seed, "pendulum"))
    x = torch.zeros(count, 2, dtype=torch.float64)
    x[:, 1] = (2 * (1 - torch.cos(torch.tensor(highest, dtype=torch.float64))) * drawn[0]).sqrt()
    x = _after(x, drawn[1, :, None] * 4 * torch.pi)  # a swing up to 2 rad takes 8.3 s
    states = [x]
    for _ in range(length - 1):
        states.append(_after(states[-1], torch.full((count, 1), step_s, dtype=torch.float64)))
    return torch.stack(states, 1)


def pendulum_energy(x: Tensor) -> Tensor:
    """(...): p² / 2 + 1 − cos q of states (..., 2)."""
    return x[..., 1].square() / 2 + 1 - x[..., 0].cos()


def _after(x: Tensor, duration_s: Tensor) -> Tensor:
    pieces = max(1, int(torch.ceil(duration_s.max() / _FINE_S)))
    h = duration_s / pieces
    for _ in range(pieces):
        a = _field(x)
        b = _field(x + h / 2 * a)
        c = _field(x + h / 2 * b)
        d = _field(x + h * c)
        x = x + h / 6 * (a + 2 * b + 2 * c + d)
    return x


def _field(x: Tensor) -> Tensor:
    return torch.stack((x[:, 1], -x[:, 0].sin()), 1)
