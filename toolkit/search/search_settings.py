"""What decides how a search goes, and by how much a candidate breaks its limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from toolkit.errors import UsageError
from toolkit.search.behavior import BehaviorSpace

__all__ = ["Settings", "broken", "check_names"]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides how a search goes, beside its space and its archive.

    Args:
        seed: Of all that is drawn.
        generation: Trials between two barriers, where `deterministic`.
        start: Trials by design before emitters are chosen.
        deterministic: Whether the same seed is to propose the same, however long evaluations take.
        objectives: Measures for which a front is kept beside quality, each larger- or smaller-is-better.
        limits: (low, high) by measure; by how much a candidate breaks them, relatively, is its violation.
        fidelity: Handed to the evaluator with each trial.
        top_fidelity: Up to which a trial climbs, one by one, while the upper bound of its quality would enter the
            archive as it was before its generation; None climbs nowhere.
        context: What else results depend on, such as digests of the target and the data; for the cache.
        timeout_s: After so long without a result a trial is issued again; None is never.

    Raises:
        UsageError: no trial a generation, no time, or limits that leave nothing.
    """

    seed: int
    generation: int = 32
    start: int = 64
    deterministic: bool = True
    objectives: tuple[str, ...] = ()
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    fidelity: int = 0
    top_fidelity: int | None = None
    context: str = ""
    timeout_s: float | None = None

    def __post_init__(self) -> None:
        if self.generation < 1 or self.start < 0 or (self.timeout_s is not None and self.timeout_s <= 0):
            raise UsageError(
                f"no search of {self.generation} trials a generation after {self.start}, again after {self.timeout_s}",
                hint="1 trial a generation or more, a start from 0, a timeout above 0",
            )
        for name, (low, high) in self.limits.items():
            if not low <= high:
                raise UsageError(f"{name} cannot lie between {low} and {high}", hint="the lower limit first")


def check_names(space: BehaviorSpace, settings: Settings) -> None:
    """Refuse settings that speak of what is no measure of `space`.

    Raises:
        UsageError: a limit or an objective is on none.
    """
    senses = {m.name: m.larger_is for m in space.measures}
    if unknown := sorted(set(settings.limits) - set(senses)):
        raise UsageError(f"a limit on {unknown[0]!r}, which is no measure", hint=f"measures: {', '.join(senses)}")
    known = [name for name, sense in senses.items() if sense != "neutral"]
    if unknown := sorted(set(settings.objectives) - set(known)):
        raise UsageError(
            f"{unknown[0]!r} is no objective", hint=f"measures that say what is better: {', '.join(known)}"
        )


def broken(limits: Mapping[str, tuple[float, float]], measures: Mapping[str, float]) -> float:
    """By how much `measures` break `limits`, as shares of these, summed; 0 where they keep all."""
    total = 0.0
    for name, (low, high) in limits.items():
        value = measures[name]
        beyond, limit = (value - high, high) if value > high else (low - value, low)
        if beyond > 0:
            total += beyond / (abs(limit) or 1.0)
    return total
