"""How the components of an organism live during a training: all that is chosen, as data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from targets.errors import InvalidInput
from toolkit.training.organism.lifecycle import Phases
from toolkit.training.organism.timescales import Timescales

__all__ = ["Births", "LifecycleRules"]

Births = Literal["archive", "fresh", "copy", "none"]
"""Whom newborns take their weights from: an archived elite, nobody, or the fittest that lives."""


@dataclass(frozen=True, kw_only=True)
class LifecycleRules:
    """See `keeping.Keeper`.

    Args:
        fade_steps: In which a dying component's gate falls to 0.
        cooldown: Good steps after which a closed gate opens.
        start, floor: Temperatures of the annealing.
        smoothing: Decay of the mean over a component's measurements of fitness.
        probed: Components measured at once; of larger pools a rotating part.
        sigma: Noise on the weights that a newborn takes over, relative to theirs.
        wanted_latency_s: Of all attention layers on the target, where the price is to follow it.
        price: Nats that a second costs, to begin with.
        price_rate: How fast it follows; see `fitness.Price`.
        stack: The target's stack that costs are predicted for; without one nothing costs.
        cull: How deaths are chosen where they are: the unfit, or as many at random as a control.
    """

    clocks: Timescales = field(default_factory=Timescales)
    phases: Phases = field(default_factory=Phases)
    births: Births = "fresh"
    deaths: bool = True
    cull: Literal["fitness", "random"] = "fitness"
    fade_steps: int = 50
    cooldown: int = 200
    start: float = 1.0
    floor: float = 0.01
    smoothing: float = 0.7
    probed: int = 16
    sigma: float = 0.1
    price: float = 0.0
    price_rate: float = 1.0
    wanted_latency_s: float | None = None
    stack: str | None = None

    def __post_init__(self) -> None:
        if min(self.fade_steps, self.cooldown, self.probed) < 1 or not 0 <= self.smoothing < 1 or self.sigma < 0:
            raise InvalidInput(
                f"a lifecycle with fades of {self.fade_steps} steps, a cooldown of {self.cooldown}, "
                f"{self.probed} probed, smoothing {self.smoothing}, sigma {self.sigma}",
                hint="steps and numbers from 1, smoothing from 0 to below 1, sigma from 0",
            )
        if self.stack is None and (self.price or self.wanted_latency_s is not None):
            raise InvalidInput("a price on latency without a stack to predict it for", hint="name one: stack")

    @classmethod
    def for_steps(cls, steps: int, **given: Any) -> LifecycleRules:
        """Clocks for a training of `steps`: medium 100 and slow 1,000 where it is long enough for ten slow turns."""
        if steps >= 10_000 or "clocks" in given:
            return cls(**given)
        medium = max(1, steps // 20)
        few = {"clocks": Timescales(1, medium, 2 * medium), "fade_steps": max(1, min(50, medium)),
               "cooldown": max(1, min(200, 2 * medium))}  # fmt: skip
        return cls(**{**few, **given})

    def to_data(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)
