"""Geodesics as Hamiltonian motion, and the geodesic between two points by shooting."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.func import grad, vmap

from toolkit.errors import GeometryError
from toolkit.geometry.checking import require_finite
from toolkit.geometry.integrators import implicit_midpoint_step, rk4_step
from toolkit.geometry.linear import solve
from toolkit.geometry.types import Field, Trajectory

__all__ = ["Method", "flow", "shoot", "shooter"]

Method: TypeAlias = Literal["rk4", "implicit_midpoint"]


def _slope(metric: Field) -> Field:
    """d/dt of (x, p), [2, n] -> [2, n], for H = 1/2 g^ij p_i p_j: one gradient, no Christoffel symbol.

    With v = g^-1 p held fixed, -dH/dx is the gradient of 1/2 g_ij(x) v^i v^j.
    """

    def slope(state: Tensor) -> Tensor:
        point, momentum = state
        velocity = solve(metric(point), momentum[:, None])[:, 0]
        force = grad(lambda x: 0.5 * velocity @ metric(x) @ velocity)(point)
        return torch.stack([velocity, force])

    return slope


def flow(metric: Field, start: Tensor, velocity: Tensor, times: Tensor, *, step: float = 0.025,
         method: Method = "rk4") -> Trajectory:  # fmt: skip
    """Geodesics of a metric.

    Args:
        metric: [n] -> [n, n].
        start, velocity: [*B, n], at time 0.
        times: [K], ascending, from 0 on.
        step: The largest step in time.
        method: "rk4" (order 4) or "implicit_midpoint" (order 2, symplectic: speed does not drift over long times).

    Returns:
        states [K, *B, 2, n]: position and velocity at each time; info["steps"] is how many steps were taken.

    Raises:
        GeometryError: a time is negative, or a geodesic leaves the chart.

    Source: do Carmo 1992, chapter 3; Hairer, Lubich & Wanner 2006.
    """
    if float(require_finite(times, "a time")[0]) < 0 or not step > 0:
        raise GeometryError(f"geodesics from time 0 to {times.tolist()[:4]} by {step}", hint="times >= 0, a step > 0")
    start, velocity = torch.broadcast_tensors(start, velocity)  # type: ignore[no-untyped-call]
    batch, n = start.shape[:-1], start.shape[-1]
    x, v = start.reshape(-1, n), velocity.reshape(-1, n)
    state = torch.stack([x, (vmap(metric)(x) @ v[..., None])[..., 0]], dim=1)
    slope = vmap(_slope(metric))
    advance = {"rk4": rk4_step, "implicit_midpoint": implicit_midpoint_step}[method]
    now, taken, seen = 0.0, 0, []
    for time in times.tolist():
        count = math.ceil((time - now) / step - 1e-9)  # a quotient that rounds above a whole number is that number
        for _ in range(count):
            state = advance(slope, state, (time - now) / count)
        require_finite(state, f"a geodesic at time {time:g}")
        velocities = solve(vmap(metric)(state[:, 0]), state[:, 1, :, None])[..., 0]
        seen.append(torch.stack([state[:, 0], velocities], dim=1))
        now, taken = time, taken + count
    states = torch.stack(seen).reshape(len(seen), *batch, 2, n)
    return Trajectory(require_finite(states, "a geodesic"), times, {"steps": taken, "method": method})


def shooter(metric: Field, steps: int):  # type: ignore[no-untyped-def]  # a function for vmap and jacfwd
    """The exponential map ([n], [n]) -> [n] by `steps` steps of order four."""

    def end(point: Tensor, vector: Tensor) -> Tensor:
        state = torch.stack([point, metric(point) @ vector])
        slope = _slope(metric)
        for _ in range(steps):
            state = rk4_step(slope, state, 1.0 / steps)
        return state[0]

    return end


def shoot(metric: Field, start: Tensor, target: Tensor, *, steps: int) -> Tensor:
    """Velocities [B, n] that lead from `start` [B, n] to `target` [B, n] in unit time, by damped Newton iteration.

    Raises:
        GeometryError: the iteration ends elsewhere.
    """
    ends = vmap(shooter(metric, steps))
    goal = 64 * torch.finfo(start.dtype).eps * (1.0 + target.abs().amax(-1))  # what `steps` sums of this size round
    vector = target - start
    missed = (ends(start, vector) - target).nan_to_num(nan=torch.inf)
    error, fraction = missed.norm(dim=-1), torch.ones_like(goal)
    for _ in range(60):
        if bool(((error <= goal) | (fraction < 1e-6)).all()):
            break
        slopes = _slopes(ends, start, vector).nan_to_num()
        move = torch.linalg.lstsq(slopes, missed[..., None].nan_to_num()).solution[..., 0]
        tried = vector - fraction[:, None] * move
        tried_missed = ends(start, tried) - target
        tried_error = tried_missed.norm(dim=-1).nan_to_num(nan=torch.inf)
        better = tried_error < error
        vector = torch.where(better[:, None], tried, vector)
        missed = torch.where(better[:, None], tried_missed, missed)
        error = torch.where(better, tried_error, error)
        fraction = torch.where(better, (2 * fraction).clamp(max=1.0), fraction / 4)
    if not bool((error <= 1e3 * goal).all()):  # where the last digits of the map are noise, Newton stops short
        raise GeometryError(
            f"no geodesic was found between two points: the nearest ends {float(error.max()):.3g} away",
            hint="take points nearer to each other, or a chart in which they are",
        )
    return vector


def _slopes(ends: Callable[[Tensor, Tensor], Tensor], start: Tensor, vector: Tensor) -> Tensor:
    """How the ends [B, n] move with the velocities, [B, n, n], by central differences in one mapped call.

    Newton's iteration corrects what a slope gets wrong; a derivative mapped through all steps costs twenty times this.
    """
    batch, n = vector.shape
    width = torch.finfo(vector.dtype).eps ** (1 / 3) * (1.0 + float(vector.abs().max()))
    shifts = width * torch.eye(n, dtype=vector.dtype)
    tried = torch.cat([vector[:, None] + shifts, vector[:, None] - shifts], dim=1).reshape(-1, n)
    after, before = ends(start.repeat_interleave(2 * n, dim=0), tried).reshape(batch, 2, n, n).unbind(1)
    slopes: Tensor = (after - before).mT / (2 * width)
    return slopes
