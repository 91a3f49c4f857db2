"""What a search has learnt, on the disk: finished evaluations, in the order in which the archive took them.

`journal.jsonl` holds one line for each group of trials that the archive took at once. What is finished before its group
is lies in `waiting.jsonl`, in the order in which it came.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from toolkit.errors import ArchiveFormatError, BudgetExceeded
from toolkit.search.checked_lines import CheckedLines
from toolkit.search.trials import Result, Trial, result_of, to_json

__all__ = ["EvaluationJournal", "Record"]


_ANEW = ", or search into another folder: what is in the cache is not evaluated again"


class Record(NamedTuple):
    """A trial and what came of it."""

    trial: Trial
    result: Result


class EvaluationJournal:
    """The journal in `folder`. What a method wrote is on the disk when it returns."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._groups = CheckedLines(folder / "journal.jsonl", "search", _ANEW)
        self._waiting = CheckedLines(folder / "waiting.jsonl", "search", _ANEW)

    def keep(self, record: Record) -> None:
        """A finished evaluation whose group is not.

        Raises:
            BudgetExceeded: the disk is full. What was written before is safe.
        """
        self._write(self._waiting, _document(record))

    def close_group(self, records: Sequence[Record]) -> None:
        """A finished group.

        Raises:
            BudgetExceeded: the disk is full. What was written before is safe.
        """
        self._write(self._groups, {"trials": [_document(record) for record in records]})
        self._waiting.clear()

    def groups(self) -> Iterator[list[Record]]:
        """Finished groups, in order.

        Raises:
            ArchiveFormatError: a line was changed, or is none of a search.
        """
        for document in self._groups:
            try:
                yield [_record(entry) for entry in document["trials"]]
            except (KeyError, TypeError) as error:
                raise ArchiveFormatError(
                    f"{self._folder} holds no search: {error}", hint="take the search from a copy"
                ) from error

    def waiting(self) -> Iterator[Record]:
        """What was finished before its group was.

        Raises:
            ArchiveFormatError: a line was changed.
        """
        return (_record(document) for document in self._waiting)

    def forget_torn_ends(self) -> None:
        """Cut off what a crash left of last lines."""
        self._groups.forget_torn_end()
        self._waiting.forget_torn_end()

    def _write(self, lines: CheckedLines, document: Mapping[str, Any]) -> None:
        try:
            lines.append(document)
        except OSError as error:
            raise BudgetExceeded(
                f"an evaluation could not be written to {self._folder}: {error.strerror}",
                hint="make room and resume: what was finished before is safe",
            ) from error


def _document(record: Record) -> dict[str, Any]:
    return asdict(record.trial) | to_json(record.result)


def _record(document: Mapping[str, Any]) -> Record:
    fields = {name: document[name] for name in Trial.__dataclass_fields__}
    fields |= {"seed_path": tuple(fields["seed_path"]), "parents": tuple(fields["parents"])}
    return Record(Trial(**fields), result_of(document))
