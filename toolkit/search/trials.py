"""What a search asks to be evaluated, and what it is told."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any, TypeAlias

from toolkit.errors import UsageError
from toolkit.search.genes import Value

__all__ = ["Budget", "Evaluate", "Evaluated", "Failure", "Result", "Trial", "checked", "result_of", "to_json"]


@dataclass(frozen=True)
class Trial:
    """One configuration to be evaluated.

    Args:
        id: Counted from 0 in the order of proposal.
        config: Of the search's space.
        key: What equal configurations share.
        fidelity: How thoroughly; what a number means is the evaluator's to say.
        seed_path: For `toolkit.rng`: derive_seed(*seed_path) is this trial's own seed.
        emitter: Who proposed it.
        parents: Ids of the elites it was made from.
        is_fallback: Whether the emitter had nothing new to propose, and chance did.
    """

    id: int
    config: Mapping[str, Value]
    key: str
    fidelity: int
    seed_path: tuple[int | str, ...]
    emitter: str
    parents: tuple[str, ...] = ()
    is_fallback: bool = False


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation found.

    Args:
        quality: Mean of `n` measurements, larger is better.
        measures: Of the archive's space, by name, raw.
        m2: Sum of the squared deviations of the measurements from their mean.
        violation: Of constraints that the evaluator knows; the search's limits add to it.
        meta: What is kept beside it, as JSON. A clock's reading here makes two equal searches differ.
        upper: The most that a higher fidelity may find the quality to be; None where it would find nothing else.
    """

    quality: float
    measures: Mapping[str, float]
    n: int = 1
    m2: float = 0.0
    violation: float = 0.0
    meta: Mapping[str, Any] = field(default_factory=dict)
    upper: float | None = None


@dataclass(frozen=True)
class Failure:
    """An evaluation that came to nothing.

    Args:
        kind: What failures are alike by, such as the class of an exception.
        text: For people; a traceback where there is one.
    """

    kind: str
    text: str


Result: TypeAlias = Evaluated | Failure
Evaluate: TypeAlias = Callable[[Trial], Evaluated]


@dataclass(frozen=True)
class Budget:
    """When a search ends.

    Args:
        evaluations: Trials in all, those of a search that is resumed among them.
        seconds: Of this run; a generation that has begun is finished.

    Raises:
        UsageError: there is no end, or it is before the beginning.
    """

    evaluations: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.evaluations is None and self.seconds is None:
            raise UsageError("a search without an end", hint="say how many evaluations, or for how many seconds")
        for count, what in ((self.evaluations, "evaluations"), (self.seconds, "seconds")):
            if count is not None and not count > 0:
                raise UsageError(f"no search of {count:g} {what}", hint=f"ask for more {what} than 0")


def checked(result: object, names: tuple[str, ...]) -> Result:
    """`result`, or the failure that it is none for a space of measures `names`."""
    if isinstance(result, Failure):
        return result
    if not isinstance(result, Evaluated):
        return Failure("Garbage", f"the evaluation returned {type(result).__name__} in place of Evaluated")
    try:
        return _plain(result, names)
    except (TypeError, ValueError, KeyError, OverflowError) as error:
        return Failure("Garbage", f"the evaluation returned what means nothing: {type(error).__name__}: {error}")


def _plain(result: Evaluated, names: tuple[str, ...]) -> Evaluated:
    """`result` as numbers and JSON.

    Raises:
        ValueError: a number is not finite, or too small to be what it is.
        KeyError: a measure is missing.
        TypeError: something is no number, or no JSON.
    """
    measures = {name: float(result.measures[name]) for name in names}
    quality, m2, violation = float(result.quality), float(result.m2), float(result.violation)
    upper = None if result.upper is None else float(result.upper)
    if not all(map(isfinite, (quality, m2, violation, upper or 0.0, *measures.values()))):
        raise ValueError(f"quality {quality} up to {upper}, violation {violation}, {measures}")
    if result.n < 1 or m2 < 0 or violation < 0:
        raise ValueError(f"{result.n} measurements, m2 {m2}, violation {violation}")
    meta = json.loads(json.dumps(dict(result.meta), allow_nan=False))
    return Evaluated(quality, measures, int(result.n), m2, violation, meta, upper)


def to_json(result: Result) -> dict[str, Any]:
    """As a line of a journal holds it."""
    return {"failure": asdict(result)} if isinstance(result, Failure) else {"evaluated": asdict(result)}


def result_of(document: Mapping[str, Any]) -> Result:
    """What `to_json` wrote."""
    return Failure(**document["failure"]) if "failure" in document else Evaluated(**document["evaluated"])
