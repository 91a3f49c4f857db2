"""Two bundles side by side: what they promise, where their recipes part, what they answer, and their time here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from toolkit.bundle.bundle import Bundle
from toolkit.comparing.answers import Answers, answers_on, golden_answers
from toolkit.comparing.documents import Part, Quantity, Step, parts, quantities, steps, versions
from toolkit.report.reading import Document, read_document
from toolkit.stopwatch import Stopwatch, Timed, ratio

__all__ = ["Answers", "Comparison", "Part", "Quantity", "Step", "compare_bundles"]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The second bundle against the first. Pairs are in that order throughout.

    Args:
        bundles: Both.
        documents: What their reports say.
        quantities: Size, latency, memory and energy.
        parts: Predicted time by kind of operator, those that differ most first.
        steps: Passes that are in one recipe alone, or that had another setting, fate or drift there.
        versions: Libraries that differ; None where one has none.
        answers: The second's answers against the first's; None where they cannot be compared.
        apart: Why they cannot.
        times: Of both on this machine, where that was wished.
    """

    bundles: tuple[Bundle, Bundle]
    documents: tuple[Document, Document]
    quantities: list[Quantity]
    parts: list[Part]
    steps: list[Step]
    versions: dict[str, tuple[str | None, str | None]]
    answers: Answers | None
    apart: str
    times: tuple[Timed, Timed] | None

    def to_json(self) -> dict[str, Any]:
        """A plain document; units are in the keys."""
        document: dict[str, Any] = {
            "schema": "toolkit.compare/1",
            "bundles": [
                {"path": str(bundle.path), **_named(document)}
                for bundle, document in zip(self.bundles, self.documents, strict=True)
            ],
            "quantities": {quantity.name: quantity.to_json() for quantity in self.quantities},
            "classes": {part.op_class: part.to_json() for part in self.parts},
            "passes": [step.to_json() for step in self.steps],
            "versions": {name: list(pair) for name, pair in self.versions.items()},
            "answers": self.answers.to_json() if self.answers else None,
            "answers_apart": self.apart,
            "times": None,
        }
        if self.times:
            value, ends = ratio(self.times[1], self.times[0])
            document["times"] = {
                "bundles": [timed.to_json() for timed in self.times],
                "ratio": value,
                "interval": list(ends),
            }
        return document


def compare_bundles(
    first: Bundle,
    second: Bundle,
    *,
    data: str | None = None,
    preprocess: str | None = None,
    measure: bool = False,
    threads: int | None = None,
    progress: Callable[[str, float], None] = lambda step, done: None,
) -> Comparison:
    """Set `second` against `first`.

    Args:
        data: Samples that both answer here; else the golden samples of the first, whose answers are recorded.
        preprocess: How images become inputs; as for the first bundle's calibration where None.
        measure: Also run both on this machine, in turns.
        threads: Of one operator, where something is measured.

    Raises:
        InvalidInput: a bundle or the data is damaged, or the two do not take the same inputs and `data` is given.
        MissingDependency: this machine cannot run what has to be run.
        UsageError: what is to be measured is emulated here.
    """
    documents = read_document(first), read_document(second)
    stopwatch = Stopwatch((first, second), threads) if measure else None
    found, apart = (
        golden_answers(first, second, progress)
        if data is None
        else (answers_on(first, second, data, preprocess, progress), "")
    )
    times = stopwatch.times(progress=progress) if stopwatch else None
    return Comparison(
        bundles=(first, second),
        documents=documents,
        quantities=quantities(*documents),
        parts=parts(*documents),
        steps=steps(*documents),
        versions=versions(*documents),
        answers=found,
        apart=apart,
        times=(times[0], times[1]) if times else None,
    )


def _named(document: Document) -> dict[str, Any]:
    """Who it is, its accuracy and its verdict."""
    metric = document.accuracy.metric
    return {
        "model": document.model.name,
        "model_digest": document.model.digest,
        **document.stack.model_dump(exclude={"id"}),
        "stack": document.stack.id,
        "provenance": document.estimate.sources,
        "artifact": document.artifact.file,
        "outcome": document.verdict.outcome,
        "accuracy": {
            **document.accuracy.model_dump(exclude={"metric"}),
            "metric": metric.to_json() if metric else None,
        },
    }
