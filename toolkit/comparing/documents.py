"""What two reports say of the same things."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import zip_longest
from typing import Any

from pydantic import BaseModel, Field, ValidationError

from targets.errors import InvalidInput
from toolkit.bundle.bundle import Bundle

__all__ = ["Document", "Part", "Quantity", "Step", "parts", "quantities", "read", "steps", "versions"]

_INTERVALS = {
    "latency_s": "latency_interval_s",
    "memory_bytes": "memory_interval_bytes",
    "energy_j": "energy_interval_j",
}


class _Model(BaseModel):
    name: str
    digest: str


class _Stack(BaseModel):
    id: str
    runtime: str
    calibrated: bool
    provenance: str


class _Artifact(BaseModel):
    file: str
    format: str
    complete: bool


class _Verdict(BaseModel):
    outcome: str


class _Summary(BaseModel):
    size_bytes: int
    latency_s: float
    latency_interval_s: tuple[float, float]
    memory_bytes: float
    memory_interval_bytes: tuple[float, float]
    energy_j: float
    energy_interval_j: tuple[float, float]


class _Accuracy(BaseModel):
    metric: dict[str, Any] | None
    identical: bool
    worst_sqnr_db: float | None
    data: str
    samples: int


class _Operator(BaseModel):
    op_class: str = Field(alias="class")
    latency_s: float


class _Estimate(BaseModel):
    operators: list[_Operator]
    fixed_s: float


class _Drift(BaseModel):
    sqnr_db: float | None


class _Proof(BaseModel):
    name: str = Field(alias="pass")
    settings: dict[str, Any]
    decision: str
    reason: str
    drift: list[_Drift]

    @property
    def worst_sqnr_db(self) -> float | None:
        """None where no answer moved."""
        return min((drift.sqnr_db for drift in self.drift if drift.sqnr_db is not None), default=None)


class Document(BaseModel):
    """The fields of report.json that are set side by side."""

    model: _Model
    stack: _Stack
    artifact: _Artifact
    verdict: _Verdict
    after: _Summary
    accuracy: _Accuracy
    estimate: _Estimate
    proofs: list[_Proof]
    versions: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Who it is, and its verdict."""
        return {
            "model": self.model.name,
            "model_digest": self.model.digest,
            "stack": self.stack.id,
            "runtime": self.stack.runtime,
            "calibrated": self.stack.calibrated,
            "provenance": self.stack.provenance,
            "artifact": self.artifact.file,
            "outcome": self.verdict.outcome,
            "accuracy": self.accuracy.model_dump(),
        }


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A figure of both, in SI units, with its intervals where it is an estimate."""

    name: str
    values: tuple[float, float]
    intervals: tuple[tuple[float, float], tuple[float, float]] | None

    @property
    def ratio(self) -> float | None:
        """Second over first; None where the first is nothing."""
        return self.values[1] / self.values[0] if self.values[0] else None

    @property
    def ratio_interval(self) -> tuple[float, float] | None:
        """From the second's least over the first's most to the reverse: as if their errors had nothing in common."""
        if self.intervals is None or not self.intervals[0][0]:
            return None
        (low, high), (second_low, second_high) = self.intervals
        return second_low / high, second_high / low

    def to_json(self) -> dict[str, Any]:
        return {
            "values": list(self.values),
            "intervals": [list(pair) for pair in self.intervals] if self.intervals else None,
            "ratio": self.ratio,
            "ratio_interval": list(self.ratio_interval) if self.ratio_interval else None,
        }


@dataclass(frozen=True, kw_only=True)
class Part:
    """All operators of one kind: how many, and their predicted seconds."""

    op_class: str
    counts: tuple[int, int]
    latency_s: tuple[float, float]

    def to_json(self) -> dict[str, Any]:
        return {"operators": list(self.counts), "latency_s": list(self.latency_s)}


@dataclass(frozen=True, kw_only=True)
class Step:
    """A pass that is not the same in both; None where a recipe does not have it."""

    name: str
    proofs: tuple[_Proof | None, _Proof | None]

    def to_json(self) -> dict[str, Any]:
        return {"pass": self.name, "in": [_plain(proof) if proof else None for proof in self.proofs]}


def _plain(proof: _Proof) -> dict[str, Any]:
    return {**proof.model_dump(exclude={"name", "drift"}), "worst_sqnr_db": proof.worst_sqnr_db}


def read(bundle: Bundle) -> Document:
    """The bundle's report.

    Raises:
        InvalidInput: it lacks something.
    """
    try:
        return Document.model_validate(bundle.report)
    except (ValidationError, ValueError) as error:
        raise InvalidInput(f"{bundle.path / 'report.json'} is damaged", hint="compile again") from error


def quantities(first: Document, second: Document) -> list[Quantity]:
    """Size of the model's file, exactly; latency, memory and energy as estimated for each bundle's stack."""
    summaries = first.after, second.after
    sizes = first.after.size_bytes, second.after.size_bytes
    return [Quantity(name="size_bytes", values=sizes, intervals=None)] + [
        Quantity(name=name, values=_pair(summaries, name), intervals=_pair(summaries, interval))
        for name, interval in _INTERVALS.items()
    ]


def _pair(summaries: tuple[_Summary, _Summary], name: str) -> tuple[Any, Any]:
    return getattr(summaries[0], name), getattr(summaries[1], name)


def parts(first: Document, second: Document) -> list[Part]:
    """Time by kind of operator; what an inference costs whatever it holds is one of them."""
    sums = [_sums(document.estimate) for document in (first, second)]
    found = [
        Part(
            op_class=name,
            counts=(sums[0][name][0], sums[1][name][0]),
            latency_s=(sums[0][name][1], sums[1][name][1]),
        )
        for name in sorted(sums[0].keys() | sums[1].keys())
    ]
    return sorted(found, key=lambda part: -abs(part.latency_s[1] - part.latency_s[0]))


def _sums(estimate: _Estimate) -> Mapping[str, tuple[int, float]]:
    found: dict[str, tuple[int, float]] = defaultdict(lambda: (0, 0.0))
    for operator in estimate.operators:
        count, seconds = found[operator.op_class]
        found[operator.op_class] = count + 1, seconds + operator.latency_s
    found["each inference"] = 1, estimate.fixed_s
    return found


def steps(first: Document, second: Document) -> list[Step]:
    """Passes in the order of the recipes, without those that are and did the same in both."""
    names = [proof.name for proof in first.proofs], [proof.name for proof in second.proofs]
    found = []
    for kind, a, b, c, d in SequenceMatcher(None, *names, autojunk=False).get_opcodes():
        pairs = _pairs(kind, first.proofs[a:b], second.proofs[c:d])
        found += [Step(name=_name(pair), proofs=pair) for pair in pairs if pair[0] != pair[1]]
    return found


def _pairs(kind: str, ours: Sequence[_Proof], theirs: Sequence[_Proof]) -> list[tuple[_Proof | None, _Proof | None]]:
    if kind == "equal":
        return list(zip_longest(ours, theirs))
    return [*((proof, None) for proof in ours), *((None, proof) for proof in theirs)]


def _name(pair: tuple[_Proof | None, _Proof | None]) -> str:
    return next(proof.name for proof in pair if proof is not None)


def versions(first: Document, second: Document) -> dict[str, tuple[str | None, str | None]]:
    """Those that differ."""
    names = sorted(first.versions.keys() | second.versions.keys())
    pairs = {name: (first.versions.get(name), second.versions.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
