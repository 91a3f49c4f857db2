"""What two reports say of the same things."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from passes.proof import Proof
from toolkit.report.reading import Document

__all__ = ["FIXED", "Part", "Quantity", "Step", "parts", "quantities", "steps", "versions"]

FIXED = "each inference"
"""The part of the time that an inference takes whatever the network holds."""

_INTERVALS = {
    "latency_s": "latency_interval_s",
    "memory_bytes": "memory_interval_bytes",
    "energy_j": "energy_interval_j",
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
        """From the second's least over the first's most to the reverse: as if their errors had nothing in common.

        None where there is no error, or both are one prediction.
        """
        if self.intervals is None or not self.intervals[0][0]:
            return None
        if self.values[0] == self.values[1] and self.intervals[0] == self.intervals[1]:
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
    """All operators of one kind: how many, and their predicted seconds; none where it is what is `FIXED`."""

    op_class: str
    counts: tuple[int, int]
    latency_s: tuple[float, float]

    def to_json(self) -> dict[str, Any]:
        return {"operators": list(self.counts), "latency_s": list(self.latency_s)}


@dataclass(frozen=True, kw_only=True)
class Step:
    """A pass that is not the same in both; None where a recipe does not have it."""

    name: str
    proofs: tuple[Proof | None, Proof | None]

    def to_json(self) -> dict[str, Any]:
        return {"pass": self.name, "in": [proof.to_json() if proof else None for proof in self.proofs]}


def quantities(first: Document, second: Document) -> list[Quantity]:
    """Size of the model's file, exactly; latency, memory and energy as estimated for each bundle's stack."""
    summaries = first.after, second.after
    sizes = first.after.size_bytes, second.after.size_bytes
    return [Quantity(name="size_bytes", values=sizes, intervals=None)] + [
        Quantity(name=name, values=_pair(summaries, name), intervals=_pair(summaries, interval))
        for name, interval in _INTERVALS.items()
    ]


def _pair(summaries: tuple[Any, Any], name: str) -> tuple[Any, Any]:
    return getattr(summaries[0], name), getattr(summaries[1], name)


def parts(first: Document, second: Document) -> list[Part]:
    """Time by kind of operator; what an inference costs whatever it holds is one of them."""
    sums = [_sums(document) for document in (first, second)]
    found = [
        Part(
            op_class=name,
            counts=(sums[0][name][0], sums[1][name][0]),
            latency_s=(sums[0][name][1], sums[1][name][1]),
        )
        for name in sorted(sums[0].keys() | sums[1].keys())
    ]
    return sorted(found, key=lambda part: -abs(part.latency_s[1] - part.latency_s[0]))


def _sums(document: Document) -> Mapping[str, tuple[int, float]]:
    found: dict[str, tuple[int, float]] = defaultdict(lambda: (0, 0.0))
    for operator in document.estimate.operators:
        count, seconds = found[operator.op_class]
        found[operator.op_class] = count + 1, seconds + operator.latency_s
    found[FIXED] = 0, document.estimate.fixed_s
    return found


def steps(first: Document, second: Document) -> list[Step]:
    """Passes in the order of the recipes, without those that are and did the same in both."""
    names = [proof.name for proof in first.proofs], [proof.name for proof in second.proofs]
    found = []
    for kind, a, b, c, d in SequenceMatcher(None, *names, autojunk=False).get_opcodes():
        pairs = _pairs(kind, first.proofs[a:b], second.proofs[c:d])
        found += [Step(name=_name(pair), proofs=pair) for pair in pairs if _seen(pair[0]) != _seen(pair[1])]
    return found


def _seen(proof: Proof | None) -> Any:
    """What of a pass is set side by side; predictions are of stacks, and differ with them."""
    return proof and (proof.settings, proof.decision, proof.reason, proof.worst_sqnr_db)


def _pairs(kind: str, ours: Sequence[Proof], theirs: Sequence[Proof]) -> list[tuple[Proof | None, Proof | None]]:
    if kind == "equal":
        return list(zip(ours, theirs, strict=True))
    return [*((proof, None) for proof in ours), *((None, proof) for proof in theirs)]


def _name(pair: tuple[Proof | None, Proof | None]) -> str:
    return next(proof.name for proof in pair if proof is not None)


def versions(first: Document, second: Document) -> dict[str, tuple[str | None, str | None]]:
    """Those that differ."""
    names = sorted(first.versions.keys() | second.versions.keys())
    pairs = {name: (first.versions.get(name), second.versions.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
