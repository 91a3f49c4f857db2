"""A search that is counted: what it does, as metrics of a collector that somebody handed in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from toolkit.search.elites import AddReport, Outcome
from toolkit.search.evaluation_journal import Record
from toolkit.search.trials import Failure, Result, Trial

if TYPE_CHECKING:
    from toolkit.observability import MetricsCollector

__all__ = ["SearchCounts"]


class SearchCounts:
    """Counts one search; what an earlier run of it had finished is not counted again.

    Metrics: `search_priced` from tables; `search_evaluations`, `search_cache_hits` and `search_evaluation_s` by
    fidelity, the last from handing out to the result; `search_failures` by kind; `search_candidates` and, of those,
    `search_stayed` in the archive, by emitter: their quotient is an emitter's yield.

    Args:
        metrics: Where to count.
        labels: On every series, such as the target.
    """

    def __init__(self, metrics: MetricsCollector, **labels: str) -> None:
        self._labels = labels
        self._priced = metrics.counter("search_priced")
        self._evaluations = metrics.counter("search_evaluations")
        self._hits = metrics.counter("search_cache_hits")
        self._failures = metrics.counter("search_failures")
        self._candidates = metrics.counter("search_candidates")
        self._stayed = metrics.counter("search_stayed")
        self._seconds = metrics.histogram("search_evaluation_s", "s")

    def priced(self, count: int) -> None:
        """So many candidates were priced without a graph."""
        self._priced.inc(count, **self._labels)

    def found(self, trial: Trial) -> None:
        """What came of it was known."""
        self._hits.inc(1, fidelity=str(trial.fidelity), **self._labels)

    def told(self, trial: Trial, result: Result, seconds: float) -> None:
        """It was evaluated, or failed, so long after it was handed out."""
        self._evaluations.inc(1, fidelity=str(trial.fidelity), **self._labels)
        self._seconds.observe(seconds, fidelity=str(trial.fidelity), **self._labels)
        if isinstance(result, Failure):
            self._failures.inc(1, kind=result.kind, **self._labels)

    def taken(self, records: Sequence[Record], report: AddReport) -> None:
        """The archive judged those of `records` that did not fail, in their order."""
        stayed = iter((report.outcome > Outcome.REJECTED).tolist())
        for trial, result in records:
            self._candidates.inc(1, emitter=trial.emitter, **self._labels)
            if not isinstance(result, Failure):
                self._stayed.inc(float(next(stayed)), emitter=trial.emitter, **self._labels)
