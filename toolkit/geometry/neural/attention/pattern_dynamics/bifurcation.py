"""Following a branch of rest states through its folds, and finding where its stability changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from toolkit.errors import GeometryError

__all__ = ["Branch", "Family", "PointKind", "SpecialPoint", "bifurcation_analysis"]

Family: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(u [n], parameter []) -> rates [n], or the next u of a map."""

PointKind = Literal["fold", "branch", "hopf", "period_doubling"]


@dataclass(frozen=True)
class SpecialPoint:
    """Where the stability of a branch changes.

    Args:
        kind: fold: it turns back; branch: another one crosses; hopf: an oscillation begins (for a map: a pair of
            multipliers leaves the unit circle); period_doubling: a multiplier of a map passes -1.
        parameter: Where.
        state: [n].
        direction: [n + 1], for a branch point the direction of the other branch in (u, parameter); else the tangent.
    """

    kind: PointKind
    parameter: float
    state: Tensor
    direction: Tensor


@dataclass(frozen=True)
class Branch:
    """A curve of rest states.

    Args:
        parameters: [K].
        states: [K, n].
        eigenvalues: Complex [K, n]: rates, or multipliers of a map.
        stable: bool [K]: all rates have negative real parts, or all multipliers lie inside the unit circle.
        points: Special points, in order along the curve.
        ended: Why it ends: the interval does, the steps are used up, or Newton's method lost the curve.
    """

    parameters: Tensor
    states: Tensor
    eigenvalues: Tensor
    stable: Tensor
    points: tuple[SpecialPoint, ...]
    ended: Literal["interval", "steps", "lost"]


def bifurcation_analysis(
    family: Family,
    start: Tensor | SpecialPoint,
    interval: tuple[float, float],
    *,
    step: float = 0.05,
    most: int = 500,
    discrete: bool = False,
) -> Branch:
    """Follow rest states by pseudo-arclength continuation while the parameter stays in `interval`.

    Special points are refined by bisection along the curve. Points of even multiplicity, where two eigenvalues pass at
    once, can hide from the signs that are watched.

    Args:
        family: The rates f(u, parameter), differentiable; or a map with `discrete`.
        start: u [n], near a rest state at the first end of the interval. Or a branch point that was found: then the
            other branch is followed from there.
        interval: (from, to); from > to goes down. For a branch point only its bounds count.
        step: Along the curve.
        most: Steps at most.
        discrete: Whether `family` is a map, whose rest states are its fixed points.

    Raises:
        GeometryError: no rest state near the start, or numbers out of range.

    Source: Keller 1977; Kuznetsov 2004, Elements of Applied Bifurcation Theory, chapter 10.
    """
    if not step > 0 or most < 1 or interval[0] == interval[1]:
        raise GeometryError(f"steps of {step}, at most {most}, over {interval}", hint="positive steps, two ends")
    curve = _Curve(family, discrete)
    low, high = min(interval), max(interval)
    if isinstance(start, SpecialPoint):
        origin = torch.cat([start.state, start.state.new_tensor([start.parameter])])
        tangent = start.direction
        first = curve.correct(origin + step * tangent, tangent)
    else:
        origin = torch.cat([start, start.new_tensor([interval[0]])])
        tangent = torch.zeros_like(origin)
        tangent[-1] = 1.0 if interval[1] > interval[0] else -1.0
        first = curve.correct(origin, tangent)  # at the parameter itself
    if first is None:
        raise GeometryError(f"no rest state near {origin.tolist()}", hint="start closer to one, or take smaller steps")
    tangent = curve.tangent(first, tangent)
    path, points = [first], []
    signs = curve.signs(first, tangent)
    ended: Literal["interval", "steps", "lost"] = "steps"
    for _ in range(most):
        size, following = step, None
        while following is None and size > 1e-6 * step:
            following = curve.correct(path[-1] + size * tangent, tangent)
            size /= 2
        if following is None or not low - 1e-12 <= float(following[-1]) <= high + 1e-12:
            ended = "lost" if following is None else "interval"
            break
        ahead = curve.tangent(following, tangent)
        after = curve.signs(following, ahead)
        points += [
            curve.refine(kind, path[-1], tangent, 2 * size)
            for kind in ("fold", "branch", "hopf", "period_doubling")
            if curve.changed(kind, signs, after)
        ]
        path.append(following)
        tangent, signs = ahead, after
    whole = torch.stack(path)
    values = torch.stack([curve.eigenvalues(point) for point in path])
    stable = (values.abs() < 1).all(-1) if discrete else (values.real < 0).all(-1)
    return Branch(whole[:, -1], whole[:, :-1], values, stable, tuple(points), ended)


class _Curve:
    """The solutions w = (u, parameter) of residual(w) = 0."""

    def __init__(self, family: Family, discrete: bool) -> None:
        self.family, self.discrete = family, discrete

    def residual(self, w: Tensor) -> Tensor:
        value = self.family(w[:-1], w[-1])
        return value - w[:-1] if self.discrete else value

    def slope(self, w: Tensor) -> Tensor:
        value: Tensor = torch.func.jacrev(self.residual)(w)
        return value

    def eigenvalues(self, w: Tensor) -> Tensor:
        n = len(w) - 1
        own = torch.eye(n, dtype=w.dtype) if self.discrete else 0.0
        value: Tensor = torch.linalg.eigvals(self.slope(w)[:, :-1] + own)
        return value

    def correct(self, guess: Tensor, tangent: Tensor) -> Tensor | None:
        """The solution in the plane through `guess` across `tangent`, by Newton's method; None where it fails."""
        w = guess
        for _ in range(12):
            left = torch.cat([self.residual(w), ((w - guess) @ tangent).reshape(1)])
            if not bool(left.isfinite().all()):
                return None
            if float(left.norm()) <= 1e-12 * (1 + float(w.norm())):
                return w
            bordered = torch.cat([self.slope(w), tangent.unsqueeze(0)])
            step, info = torch.linalg.solve_ex(bordered, left)
            if int(info):
                return None
            w = w - step
        return w if float(self.residual(w).norm()) <= 1e-9 * (1 + float(w.norm())) else None

    def tangent(self, w: Tensor, before: Tensor) -> Tensor:
        """The unit null vector of the slope that points along `before`."""
        null = torch.linalg.svd(self.slope(w)).Vh[-1]
        value: Tensor = null if float(null @ before) >= 0 else -null
        return value

    def signs(self, w: Tensor, tangent: Tensor) -> dict[PointKind, float]:
        """What changes sign at a special point of each kind; for hopf the number of unstable oscillating modes."""
        bordered = torch.cat([self.slope(w), tangent.unsqueeze(0)])
        values = self.eigenvalues(w)
        pairs = values[values.imag.abs() > 1e-9 * (1 + values.abs())]
        outside = pairs.abs() > 1 if self.discrete else pairs.real > 0
        doubling = float((values + 1).prod().real) if self.discrete else 1.0
        return {
            "fold": float(tangent[-1]),
            "branch": float(torch.linalg.det(bordered)),
            "hopf": float(outside.sum()) if len(pairs) else float("nan"),
            "period_doubling": doubling,
        }

    def changed(self, kind: PointKind, before: dict[PointKind, float], after: dict[PointKind, float]) -> bool:
        if kind == "hopf":  # a pair that has just met or parted on the real axis crosses nothing
            return bool(abs(before[kind] - after[kind]) > 1.5)
        return before[kind] * after[kind] < 0

    def refine(self, kind: PointKind, w: Tensor, tangent: Tensor, size: float) -> SpecialPoint:
        """Bisection for the length along `tangent` from `w` at which the sign of `kind` changes."""
        start = self.signs(w, tangent)
        near, far, best = 0.0, size, w
        for _ in range(50):
            middle = (near + far) / 2
            point = self.correct(w + middle * tangent, tangent)
            if point is None:  # the plane is singular at the very point
                break
            best = point
            if self.changed(kind, start, self.signs(point, self.tangent(point, tangent))):
                far = middle
            else:
                near = middle
        along = self.tangent(best, tangent)
        direction = self._other(best, along) if kind == "branch" else along
        return SpecialPoint(kind, float(best[-1]), best[:-1], direction)

    def _other(self, w: Tensor, along: Tensor) -> Tensor:
        """The direction in the null space of the slope across `along`: the last two right singular vectors span it."""
        plane = torch.linalg.svd(self.slope(w)).Vh[-2:]
        across = plane - (plane @ along).unsqueeze(1) * along
        longest = across[across.norm(dim=1).argmax()]
        value: Tensor = longest / longest.norm()
        return value
