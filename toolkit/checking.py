"""Does a model fit a target, and what is the cheapest change that makes it fit?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any

from targets.stack import Stack
from targets.target import load_target
from targets.verdict import Limits, Outcome
from toolkit.alternatives import Candidate, Way
from toolkit.driver import Options

__all__ = ["Answer", "check_model"]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Whether a model fits, and what would make it fit.

    `way` is the way on the stack that was asked for which the answer is about; `tried` holds every way that was
    priced, cheapest change first, and `change` the first of them that fits.
    """

    model: str
    stack: Stack
    limits: Limits
    way: Way
    tried: tuple[Way, ...]

    @property
    def outcome(self) -> Outcome:
        return self.way.outcome

    @property
    def change(self) -> Way | None:
        return next((way for way in self.tried if way.outcome is Outcome.FITS), None)

    def to_json(self) -> dict[str, Any]:
        """A plain document; units are in the keys."""
        return {
            "schema": "toolkit.check/1",
            "model": self.model,
            "target": self.stack.target,
            "stack": self.stack.id,
            "runtime": self.stack.describe(),
            "outcome": str(self.outcome),
            "limits": asdict(self.limits),
            "way": self.way.to_json(),
            "change": self.change.to_json() if self.change else None,
            "tried": [way.to_json() for way in self.tried],
        }


def check_model(model: Any = None, *, target: str, limits: Mapping[str, float] | None = None, **options: Any) -> Answer:
    """Hold `model` against the limits of `target`, and where it does not fit look for what would.

    The stack that is asked for may run the model as it is in float32 or in its own precision; it fits where either
    does. Only where neither does for certain, other changes are priced, cheapest first: the target's other stacks, a
    smaller image where the model takes one, another device. The model is exported once.

    Args:
        model: See `toolkit.sources.load_source`.
        limits: `latency_s`, `memory_bytes`, `energy_j`, `size_bytes`; they beat those of the profile.
        options: Fields of `toolkit.driver.Options`.

    Raises:
        ToolkitError: with what happened and what to do next.
    """
    opts = Options(**options)
    device = load_target(target)
    stack = device.stack(opts.stack)
    stated: dict[str, Any] = dict(limits or {})
    held = replace(Limits.of(device), **stated)
    candidate = Candidate(model, opts)
    tried = candidate.on(stack, held)
    way = _best(tried)
    if way.outcome is not Outcome.FITS:
        changes = chain(
            candidate.on_other_stacks(device, stack, held),
            candidate.at_smaller_resolution(stack, held),
            candidate.on_other_targets(device, held, own_memory="memory_bytes" not in stated),
        )
        for other in changes:
            tried.append(other)
            if other.outcome is Outcome.FITS:
                break
    return Answer(model=candidate.name, stack=stack, limits=held, way=way, tried=tuple(tried))


def _best(ways: list[Way]) -> Way:
    """The first that fits; else the one that comes closest: by outcome, operators that leave, time."""
    order = list(Outcome)
    fitting = next((way for way in ways if way.outcome is Outcome.FITS), None)
    return fitting or min(
        ways, key=lambda way: (order.index(way.outcome), len(way.support.leaving), way.estimate.latency_s)
    )
