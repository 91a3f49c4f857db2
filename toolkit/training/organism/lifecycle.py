"""Who is to be born and who is to die: a decision from what is known, which changes nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median

from targets.errors import InvalidInput
from toolkit.training.organism.stability import Annealing, spread

__all__ = ["Birth", "ComponentView", "Death", "Phase", "Phases", "PoolView", "decide_births", "decide_deaths", "unfit"]

Draw = Callable[..., float]
"""From a path of integers and texts to one number in [0, 1): `functools.partial(toolkit.rng.uniform, root)`."""

_UNFIT = -1.0
"""Relative fitness, in standard deviations of the neighbours, below which a component may die."""


class Phase(StrEnum):
    """What a step of the training allows."""

    WARM_UP = "warm-up"
    GENTLE = "gentle"
    FULL = "full"


@dataclass(frozen=True, kw_only=True)
class Phases:
    """Nobody is born or dies in the warm-up; then there are births; then births and deaths.

    Args:
        warm_up, gentle: Share of all steps, or a number of steps where it is an int.
    """

    warm_up: float | int = 0.1
    gentle: float | int = 0.4

    def __post_init__(self) -> None:
        for name in ("warm_up", "gentle"):
            value = getattr(self, name)
            if value < 0 or (isinstance(value, float) and value > 1):
                raise InvalidInput(
                    f"phases: {name} = {value}", hint="a share of the steps from 0 to 1, or a whole number of steps"
                )

    def at(self, step: int, steps: int) -> Phase:
        """The phase of `step` in a training of `steps`."""
        first = _steps(self.warm_up, steps)
        if step < first:
            return Phase.WARM_UP
        return Phase.GENTLE if step < first + _steps(self.gentle, steps) else Phase.FULL


def _steps(part: float | int, steps: int) -> int:
    return part if isinstance(part, int) else int(part * steps)


@dataclass(frozen=True, kw_only=True)
class ComponentView:
    """What a decision knows of one component.

    Args:
        age: Steps since its birth.
        fitness: In nats; `relative` in standard deviations of its neighbours.
    """

    component_id: str
    age: int
    fitness: float
    relative: float
    is_fading: bool = False


@dataclass(frozen=True, kw_only=True)
class PoolView:
    """What a decision knows of a pool: its components by id, and its rules.

    Args:
        is_priced: Whether latency has a price. Who costs more than it brings is then unfit as well: components of one
            size all pay the same, so beside its neighbours none of them would ever look too dear.
        grace: Steps in which a newborn cannot die.
    """

    components: Sequence[ComponentView]
    min_size: int
    max_size: int
    grace: int
    is_priced: bool = False


@dataclass(frozen=True)
class Birth:
    """A component is to be born of `parent`, an id of whatever parents are taken from; of nobody where None."""

    parent: str | None


@dataclass(frozen=True)
class Death:
    """A component is to fade out."""

    component_id: str


def decide_births(
    view: PoolView, step: int, phase: Phase, *, gate_open: bool, admitted: bool, annealing: Annealing, draw: Draw,
    parent: tuple[str, float] | None,
) -> list[Birth]:  # fmt: skip
    """At most one birth.

    Args:
        admitted: Whether memory has room for another.
        parent: Whom it would be born of, and that one's fitness; None makes it start afresh, which needs no merit.
    """
    if phase is Phase.WARM_UP or not gate_open or not admitted or len(view.components) >= view.max_size:
        return []
    if parent is None:
        return [Birth(None)]
    shortfall = _shortfall(view, parent[1])
    accepted = draw("birth", step, parent[0]) < annealing.acceptance(shortfall, step)
    return [Birth(parent[0])] if accepted else []


def decide_deaths(
    view: PoolView, step: int, phase: Phase, *, gate_open: bool, annealing: Annealing, draw: Draw
) -> list[Death]:
    """Those that have been unfit beside their neighbours, worst first; never below the smallest pool."""
    if phase is not Phase.FULL or not gate_open:
        return []
    found = []
    for one in unfit(view):
        kept = annealing.acceptance(_shortfall(view, one.fitness), step)
        if draw("death", step, one.component_id) < 1 - kept:
            found.append(Death(one.component_id))
    living = sum(not one.is_fading for one in view.components)
    return found[: max(0, living - view.min_size)]


def unfit(view: PoolView) -> list[ComponentView]:
    """Old enough, not fading, and below the neighbours: by fitness, then the older first, then by id."""
    old = [c for c in view.components if c.age > view.grace and not c.is_fading]
    chosen = [c for c in old if c.relative < _UNFIT or (view.is_priced and c.fitness < 0)]
    return sorted(chosen, key=lambda c: (c.fitness, -c.age, c.component_id))


def _shortfall(view: PoolView, fitness: float) -> float:
    """By how many scales of the pool `fitness` lies below its median."""
    values = [c.fitness for c in view.components]
    if not values:
        return 0.0
    missing = median(values) - fitness
    scale = spread(values)
    if scale > 0:
        return missing / scale
    return 0.0 if missing <= 0 else float("inf")
