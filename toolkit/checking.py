"""Does a model fit a target, and what is the cheapest change that makes it fit?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from targets.errors import InvalidInput, MissingDependency
from targets.stack import Stack
from targets.target import load_target
from targets.verdict import Limits, Outcome
from toolkit.alternatives import Candidate
from toolkit.driver import Options
from toolkit.remedies import Fallback, Rewritten
from toolkit.ways import Way

__all__ = ["Answer", "check_model"]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Whether a model fits, and what would make it fit.

    `way` is the way on the stack that was asked for which the answer is about; `tried` holds every way that was
    priced, cheapest change first, and `change` the first of them that fits. `fallbacks` are the operators that leave
    an accelerator on their own account; `notes` say at which sizes inputs that may vary were priced, and what could
    not be tried; `saved` are the files written.
    """

    model: str
    stack: Stack
    limits: Limits
    way: Way
    tried: tuple[Way, ...]
    fallbacks: tuple[Fallback, ...] = ()
    notes: tuple[str, ...] = ()
    saved: tuple[Path, ...] = ()

    @property
    def outcome(self) -> Outcome:
        return self.way.outcome

    @property
    def change(self) -> Way | None:
        return next((way for way in self.tried if way.outcome is Outcome.FITS), None)

    @property
    def critical(self) -> str:
        """The quantity that is furthest over its limit, by which ways are ranked; latency where none is."""
        missed = [c for c in self.way.verdict.checks if c.outcome is not Outcome.FITS]
        return max(missed, key=lambda c: c.interval[1] / c.limit).quantity if missed else "latency_s"

    def gain(self, way: Way) -> float:
        """How much less of the critical quantity `way` needs than the one that the answer is about, in its unit."""
        return self.way.value(self.critical) - way.value(self.critical)

    @property
    def ranked(self) -> list[Way]:
        """Every way that was tried, the largest gain first."""
        return sorted(self.tried, key=self.gain, reverse=True)

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
            "way": self._described(self.way),
            "change": self._described(self.change) if self.change else None,
            "tried": [self._described(way) for way in self.tried],
            "ranked_by": self.critical,
            "ranked": [self.tried.index(way) for way in self.ranked],
            "fallbacks": [fallback.to_json() for fallback in self.fallbacks],
            "notes": list(self.notes),
        }

    def _described(self, way: Way) -> dict[str, Any]:
        names = [("latency_s", "latency_s"), ("memory_bytes", "peak_memory_bytes"), ("energy_j", "energy_j"),
                 ("size_bytes", "size_bytes")]  # fmt: skip
        return {**way.to_json(), "gain": {shown: self.way.value(name) - way.value(name) for name, shown in names}}


def check_model(
    model: Any = None,
    *,
    target: str,
    limits: Mapping[str, float] | None = None,
    save: str | Path | None = None,
    **options: Any,
) -> Answer:
    """Hold `model` against the limits of `target`, and where it does not fit look for what would.

    The stack that is asked for may run the model as it is in float32 or in its own precision; it fits where either
    does. What leaves an accelerator is priced, and written otherwise where that keeps it on. Where neither precision
    fits for certain, other changes are priced: the exact rewrites and the target's other stacks; then other networks on
    the same stack (a smaller image, simpler activations, fewer channels), each of them really made and run; then other
    devices. The model is exported once.

    Args:
        model: See `toolkit.sources.load_source`.
        limits: `latency_s`, `memory_bytes`, `energy_j`, `size_bytes`; they beat those of the profile.
        save: Folder that gets every changed network as an ONNX file in float32.
        options: Fields of `toolkit.driver.Options`.

    Raises:
        ToolkitError: with what happened and what to do next.
    """
    opts = Options(**options)
    device = load_target(target)
    stack = device.stack(opts.stack)
    stated: dict[str, Any] = dict(limits or {})
    held = replace(Limits.of(device), **stated)
    candidate = Candidate(model, opts, **({"folder": save} if save is not None else {}))
    tried = candidate.on(stack, held)
    way = _best(tried)
    fallbacks = candidate.fallbacks(stack) if tried[-1].support.leaving else []
    rewritten = candidate.rewritten(fallbacks, stack, held)
    notes = list(candidate.notes)
    if way.outcome is Outcome.FITS:
        tried += rewritten
    else:
        same_answers = [w for w in rewritten if not w.training.costs]
        others = [w for w in rewritten if w.training.costs]
        tried += _until_one_fits(chain(same_answers, candidate.on_other_stacks(device, stack, held)))
        fits_unchanged = _one_fits(tried)
        tried += others
        if not fits_unchanged and way.verdict.outcome is not Outcome.FITS:
            base = next((w.rewritten for w in same_answers), None)
            tried += _other_networks(candidate, stack, held, base, notes)
        if not _one_fits(tried):
            own_memory = "memory_bytes" not in stated
            tried += _until_one_fits(candidate.on_other_targets(device, held, own_memory=own_memory))
    tried.sort(key=lambda w: w.effort)
    saved = [w.save(Path(save)) for w in tried if w.graph] if save is not None else []
    return Answer(
        model=candidate.name,
        stack=stack,
        limits=held,
        way=way,
        tried=tuple(tried),
        fallbacks=tuple(fallbacks),
        notes=tuple(notes),
        saved=tuple(saved),
    )


def _other_networks(
    candidate: Candidate, stack: Stack, limits: Limits, base: Rewritten | None, notes: list[str]
) -> Iterator[Way]:
    """Smaller images, simpler activations, fewer channels (of `base`); `notes` gets what could not be done and why."""
    yield from candidate.at_smaller_resolution(stack, limits)
    with _noted(notes, "activations were not exchanged"):
        yield from candidate.with_simpler_activations(stack, limits)
    seen: set[bytes] = set()
    for trunk in (False, True):
        with _noted(notes, f"channels were not removed {'in every layer' if trunk else 'inside the blocks'}"):
            way = candidate.slimmer(stack, limits, trunk=trunk, after=base)
            if way.graph is not None and way.graph.onnx_bytes not in seen:  # without additions both are one
                seen.add(way.graph.onnx_bytes)
                yield way


@contextmanager
def _noted(notes: list[str], what: str) -> Iterator[None]:
    """Write down why a network could not be changed, and go on: the verdict stands without it."""
    try:
        yield
    except (InvalidInput, MissingDependency) as refusal:
        notes.append(f"{what}: {refusal.problem}")


def _until_one_fits(ways: Iterator[Way]) -> Iterator[Way]:
    for way in ways:
        yield way
        if way.outcome is Outcome.FITS:
            return


def _one_fits(ways: list[Way]) -> bool:
    return any(way.outcome is Outcome.FITS for way in ways)


def _best(ways: list[Way]) -> Way:
    """The first that fits; else the one that comes closest: by outcome, operators that leave, time."""
    order = list(Outcome)
    fitting = next((way for way in ways if way.outcome is Outcome.FITS), None)
    return fitting or min(
        ways, key=lambda way: (order.index(way.outcome), len(way.support.leaving), way.estimate.latency_s)
    )
