"""A layer whose features move by Hamilton's equations, with learned kinetic and potential energy and a learned λ.

Layouts: a state is (..., 2 n), positions q in the first half, momenta p in the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Literal

import torch
from torch import Tensor, nn

from targets.errors import InvalidInput

__all__ = ["EnergyConstraint", "HamiltonianLayer", "drift"]


class HamiltonianLayer(nn.Module):
    """(..., 2 n) to (..., 2 n): `steps` steps of `step` seconds under H(q, p) = T(p) + V(q).

    T and V are small networks with smooth units. A step is Störmer–Verlet,

        p ← p − (h / 2) ∇V(q),   q ← q + h ∇T(p),   p ← p − (h / 2) ∇V(q)

    which is reversible and keeps volume and, within O(h²), the energy: no λ is needed for that. `integrator` "euler"
    takes (q, p) + h (∇T, −∇V) at once, as the published layers do, and drifts; then `EnergyConstraint` has something to
    hold. Nothing is conserved by a network that is told the state alone: this layer is for what obeys mechanics.

    Off in every recipe: inside a classifier of digits it hurts, 3 times the FLOPs of a residual layer of as many
    weights at equal accuracy and 5 times its time (10 seeds, `toolkit.bench.training_cost` physics_informed). It is for
    mechanics: on noisy swings of a pendulum 2.6 times fewer samples do (95 % interval 1.3 to 3.8, 8 seeds).

    Args:
        n: Degrees of freedom, half of the state's width.
        hidden: Units of both hidden layers of T and of V; one layer of a given width each where it is a sequence.
        steps: Of the integrator, 1 at least.
        step: Length of one, seconds, above 0.
        integrator: "leapfrog" or "euler".
        seed: Of the weights.

    Raises:
        InvalidInput: a number is out of range; in `forward` and `energy`, a state is empty or of another width.

    Source: Greydanus, Dzamba and Yosinski 2019, arXiv:1906.01563; separable and symplectic: Chen, Zhang, Arjovsky and
    Bottou 2020, arXiv:1909.13334.
    """

    def __init__(
        self,
        n: int,
        *,
        hidden: int | Sequence[int] = 32,
        steps: int = 1,
        step: float = 0.1,
        integrator: Literal["leapfrog", "euler"] = "leapfrog",
        seed: int = 0,
    ) -> None:
        super().__init__()
        widths = (hidden, hidden) if isinstance(hidden, int) else tuple(hidden)
        if min(n, steps, *widths) < 1 or not (isfinite(step) and step > 0):
            raise InvalidInput(
                f"nothing moves with n = {n}, hidden {widths}, {steps} steps of {step}",
                hint="n, hidden and steps from 1, step above 0",
            )
        if integrator not in ("leapfrog", "euler"):
            raise InvalidInput(f"unknown integrator {integrator!r}", hint="leapfrog or euler")
        self.n, self.steps, self.step, self.integrator = n, steps, step, integrator
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self.kinetic, self.potential = _network(n, widths), _network(n, widths)

    def forward(self, x: Tensor) -> Tensor:
        """The state `steps` · `step` seconds later; differentiable, also where gradients are off."""
        return self.roll(x, 1)[..., 0, :]

    def roll(self, x: Tensor, times: int) -> Tensor:
        """(..., times, 2 n): the states after each of so many passes."""
        self._refuse(x)
        q, p = x.chunk(2, -1)
        states = []
        for _ in range(times):
            for _ in range(self.steps):
                q, p = self._move(q, p)
            states.append(torch.cat((q, p), -1))
        return torch.stack(states, -2)

    def energy(self, x: Tensor) -> Tensor:
        """(...): H of each state, up to a constant that no motion sees."""
        self._refuse(x)
        q, p = x.chunk(2, -1)
        total: Tensor = (self.kinetic(p) + self.potential(q)).squeeze(-1)
        return total

    def field(self, x: Tensor) -> Tensor:
        """(..., 2 n): the time derivative of each state, (∇T(p), −∇V(q))."""
        self._refuse(x)
        q, p = x.chunk(2, -1)
        return torch.cat((_slope(self.kinetic, p), -_slope(self.potential, q)), -1)

    def _move(self, q: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
        h = self.step
        if self.integrator == "euler":
            return q + h * _slope(self.kinetic, p), p - h * _slope(self.potential, q)
        p = p - h / 2 * _slope(self.potential, q)
        q = q + h * _slope(self.kinetic, p)
        return q, p - h / 2 * _slope(self.potential, q)

    def _refuse(self, x: Tensor) -> None:
        if not x.ndim or x.shape[-1] != 2 * self.n or not x.numel():
            raise InvalidInput(
                f"a state has {self.n} positions and {self.n} momenta, not {tuple(x.shape)}",
                hint=f"give (..., {2 * self.n}), one state at least",
            )


class EnergyConstraint(nn.Module):
    """The term λ (mean drift² − allowed) of a loss, with λ >= 0 learned: it grows while energy drifts by more.

    The loss is minimised in the weights and maximised in λ, so λ's gradient is handed over with its sign turned and
    any optimizer of torch serves for both. λ = softplus(its parameter).

    Args:
        start: λ before training, above 0.
        allowed: Mean square of the relative drift that is no fault, >= 0.

    Raises:
        InvalidInput: a number is out of range.

    Source: Platt and Barr 1987, Constrained differential optimization, NIPS.
    """

    def __init__(self, *, start: float = 0.1, allowed: float = 1e-4) -> None:
        super().__init__()
        if not (isfinite(start) and start > 0) or not (isfinite(allowed) and allowed >= 0):
            raise InvalidInput(
                f"no constraint starts at λ = {start} and allows {allowed}", hint="start above 0, allowed from 0"
            )
        self.allowed = allowed
        self.raw = nn.Parameter(torch.tensor(start, dtype=torch.float64).expm1().log().float())

    @property
    def multiplier(self) -> Tensor:
        """λ, ()."""
        return nn.functional.softplus(self.raw)

    def forward(self, before: Tensor, after: Tensor) -> Tensor:
        """What to add to a loss, (), of energies (...) before and after."""
        turned = 2 * self.multiplier.detach() - self.multiplier  # the value of λ, and minus its gradient
        return turned * (drift(before, after).square().mean() - self.allowed)


def drift(before: Tensor, after: Tensor) -> Tensor:
    """(...): (after − before) / the standard deviation of `before`, or / 1 where all are equal or there is one.

    An energy's constant means nothing, so |before| measures nothing either.

    Raises:
        InvalidInput: they differ in shape or are empty.
    """
    if before.shape != after.shape or not before.numel():
        raise InvalidInput(
            f"energies {tuple(before.shape)} and {tuple(after.shape)} have no drift", hint="give one of each state"
        )
    spread = before.detach().std(correction=0)
    return (after - before) / torch.where(spread > 0, spread, torch.ones_like(spread))


def _network(n: int, widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in zip((n, *widths), widths, strict=False):
        layers += [nn.Linear(inputs, outputs), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 1, bias=False))


def _slope(network: nn.Sequential, at: Tensor) -> Tensor:
    """(..., n): the gradient of a network with one output, by the chain rule spelled out.

    So it exports, it needs no graph of a graph, and it works under `torch.no_grad`.
    """
    x, slopes = at, []
    *hidden, last = (layer for layer in network if isinstance(layer, nn.Linear))
    for layer in hidden:
        x = torch.tanh(layer(x))
        slopes.append((1 - x.square(), layer.weight))
    back: Tensor = last.weight[0]
    for slope, weight in reversed(slopes):
        back = (back * slope) @ weight
    return back
