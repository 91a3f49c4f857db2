"""Results that need no evaluation: kept by content, or finished in a generation that was broken off."""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping
from dataclasses import replace

from toolkit.digests import canonical_digest
from toolkit.search.evaluation_journal import Record
from toolkit.search.trials import Evaluated, Trial

__all__ = ["KnownResults"]


class KnownResults:
    """What came of trials, here or in another search of the same context.

    Args:
        cache: Results by content; may be shared by searches.
        context: What results depend on, beside the configuration and its fidelity.
    """

    def __init__(self, cache: MutableMapping[str, Evaluated], context: str) -> None:
        self._cache, self._context = cache, canonical_digest(context)
        self._recalled: dict[str, Record] = {}

    def recall(self, records: Iterable[Record]) -> None:
        """Those of a generation that a break cut off; its failures are tried again."""
        self._recalled = {record.trial.key: record for record in records if isinstance(record.result, Evaluated)}

    def find(self, trial: Trial) -> Record | None:
        """What came of `trial`; before a break perhaps at a higher fidelity than where it starts."""
        recalled = self._recalled.pop(trial.key, None)
        if recalled is not None:
            return Record(replace(trial, fidelity=recalled.trial.fidelity), recalled.result)
        found = self._cache.get(self._content(trial))
        return None if found is None else Record(trial, found)

    def keep(self, trial: Trial, result: Evaluated) -> None:
        """For whoever tries the same again."""
        self._cache[self._content(trial)] = result

    def _content(self, trial: Trial) -> str:
        """All that a result depends on."""
        return f"{trial.key}-{trial.fidelity}-{self._context}"
