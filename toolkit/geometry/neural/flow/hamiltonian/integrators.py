"""Steps that keep the symplectic form, and trajectories made of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from toolkit.errors import GeometryError
from toolkit.geometry.checking import all_finite, require_finite
from toolkit.geometry.integrators import implicit_midpoint_step
from toolkit.geometry.neural.flow.hamiltonian.systems import Hamiltonian, Mechanical, hamilton_equations
from toolkit.geometry.types import Trajectory

__all__ = ["implicit_midpoint", "leapfrog", "leapfrog_step", "midpoint_step", "yoshida4", "yoshida4_step"]

_Pair = tuple[Tensor, Tensor]
_Triple = tuple[Tensor, Tensor, Tensor]


def leapfrog_step(system: Mechanical, q: Tensor, p: Tensor, dt: float) -> _Pair:
    """Half a kick, a drift, half a kick (Stormer-Verlet), [*B, n]: order two, symplectic, reversible."""
    return _kicked(system, q, p, system.force(q), dt)[:2]


def yoshida4_step(system: Mechanical, q: Tensor, p: Tensor, dt: float) -> _Pair:
    """Three leapfrogs, the middle one backwards, [*B, n]: order four. Source: Yoshida 1990."""
    return _composed(system, q, p, system.force(q), dt)[:2]


def _kicked(system: Mechanical, q: Tensor, p: Tensor, force: Tensor, dt: float) -> _Triple:
    """A leapfrog that is given the force at q, and the force where it ends: what the next one begins with."""
    p = torch.add(p, force, alpha=dt / 2)
    q = torch.add(q, system.velocity(p), alpha=dt)
    force = system.force(q)
    return q, torch.add(p, force, alpha=dt / 2), force


def _composed(system: Mechanical, q: Tensor, p: Tensor, force: Tensor, dt: float) -> _Triple:
    outer = 1 / (2 - 2 ** (1 / 3))
    for part in (outer, 1 - 2 * outer, outer):
        q, p, force = _kicked(system, q, p, force, part * dt)
    return q, p, force


def midpoint_step(hamiltonian: Hamiltonian, q: Tensor, p: Tensor, dt: float) -> _Pair:
    """The implicit midpoint rule, [*B, n]: order two and symplectic for any Hamiltonian; keeps quadratic invariants.

    Raises:
        GeometryError: the step is too large for its equation to be solved.
    """

    def slope(z: Tensor) -> Tensor:
        half = hamilton_equations((z[..., : q.shape[-1]], z[..., q.shape[-1] :]), hamiltonian)
        return torch.cat(half, dim=-1)

    moved = implicit_midpoint_step(slope, torch.cat([q, p], dim=-1), dt)
    return moved[..., : q.shape[-1]], moved[..., q.shape[-1] :]


def leapfrog(system: Mechanical, q: Tensor, p: Tensor, *, dt: float, steps: int, keep_every: int = 1) -> Trajectory:
    """`steps` leapfrogs from q, p [*B, n]. See `_walk` for the answer. Source: Hairer, Lubich & Wanner 2006, I.1."""
    return _walk(_carrying(system, _kicked, q, dt), q, p, dt, steps, keep_every)


def yoshida4(system: Mechanical, q: Tensor, p: Tensor, *, dt: float, steps: int, keep_every: int = 1) -> Trajectory:
    """`steps` steps of order four from q, p [*B, n]. See `_walk` for the answer. Source: Yoshida 1990."""
    return _walk(_carrying(system, _composed, q, dt), q, p, dt, steps, keep_every)


def implicit_midpoint(hamiltonian: Hamiltonian, q: Tensor, p: Tensor, *, dt: float, steps: int,
                      keep_every: int = 1) -> Trajectory:  # fmt: skip
    """`steps` implicit midpoint steps from q, p [*B, n]; any Hamiltonian. See `_walk` for the answer."""
    return _walk(lambda a, b: midpoint_step(hamiltonian, a, b, dt), q, p, dt, steps, keep_every)


def _carrying(
    system: Mechanical, step: Callable[..., _Triple], q: Tensor, dt: float
) -> Callable[[Tensor, Tensor], _Pair]:
    """Steps one after another from q; each begins with the force in which the one before it ended."""
    force = system.force(q)

    def carried(a: Tensor, b: Tensor) -> _Pair:
        nonlocal force
        a, b, force = step(system, a, b, force, dt)
        return a, b

    return carried


def _walk(step: Callable[[Tensor, Tensor], _Pair], q: Tensor, p: Tensor, dt: float, steps: int,
          keep_every: int) -> Trajectory:  # fmt: skip
    """States [K, *B, 2n] = (q, p) at times [K]: the start and every `keep_every`-th step.

    Raises:
        GeometryError: no steps, a dt that is not positive, or a state that is not finite.
    """
    if steps < 1 or keep_every < 1 or not dt > 0:
        raise GeometryError(
            f"{steps} steps of {dt}, one kept of {keep_every}", hint="steps >= 1, keep_every >= 1 and dt > 0"
        )
    seen, times = ([q], [p]), [0.0]
    for count in range(1, steps + 1):
        q, p = step(q, p)
        if count % keep_every == 0:
            seen[0].append(q)
            seen[1].append(p)
            times.append(count * dt)
    states = torch.cat([torch.stack(half) for half in seen], dim=-1)
    if not all_finite(states):  # what is not finite once stays so: one look is enough where all is well
        for time, state in zip(times, states, strict=True):
            require_finite(state, f"the state at time {time:g}")
    return Trajectory(states, torch.tensor(times, dtype=q.dtype), {"dt": dt, "steps": steps})
