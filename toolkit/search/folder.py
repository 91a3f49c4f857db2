"""An archive that lives in a folder: what was added is on the disk before `add` returns, and survives a kill -9.

After each batch its new elites go to a journal, one line with a checksum, and their arrays to a file beside it; opening
replays the journal on the last snapshot. `compact` makes a new snapshot. One process at a time may write.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.errors import ArchiveFormatError, BudgetExceeded
from toolkit.search.archive import CVTArchive
from toolkit.search.checked_lines import CheckedLines
from toolkit.search.elites import AddReport, Candidate, Outcome
from toolkit.search.genomes import Genome, genome_id
from toolkit.search.locks import locked
from toolkit.search.shards import Shard, has_tensors, write_shard
from toolkit.search.snapshots import manifest_of, read_snapshot, write_snapshot

__all__ = ["ArchiveFolder", "load", "save"]


def save(archive: CVTArchive, path: Path) -> None:
    """Write `archive` into a new folder.

    Raises:
        ArchiveFormatError: there is something else already.
    """
    if path.exists() and any(path.iterdir()):
        raise ArchiveFormatError(f"{path} is not empty", hint="name a new folder")
    path.mkdir(parents=True, exist_ok=True)
    write_snapshot(archive, path, 1)


def load(path: Path) -> CVTArchive:
    """The archive in a folder, to be read; what a search adds afterwards is not seen.

    Raises:
        ArchiveFormatError: it is no archive, of another version, cut off, or a byte was changed.
    """
    archive = read_snapshot(path)
    journal = _Journal(path, int(manifest_of(path)["generation"]))
    for elites, seen in journal.batches():
        archive.restore(elites, seen=seen)
    return archive


class ArchiveFolder:
    """A folder that one process writes to.

    Use `opened`; `archive` is for reading, what is added goes through `add`.
    """

    def __init__(self, path: Path, archive: CVTArchive, journal: _Journal) -> None:
        self.path, self.archive, self._journal = path, archive, journal

    @classmethod
    @contextmanager
    def opened(cls, path: Path) -> Iterator[ArchiveFolder]:
        """Open an archive that `save` made, as its only writer.

        Raises:
            ArchiveFormatError: see `load`.
            SlimeError: another process writes to it.
        """
        generation = int(manifest_of(path)["generation"])
        with locked(path):
            journal = _Journal(path, generation)
            archive = load(path)
            journal.forget_torn_end()
            yield cls(path, archive, journal)

    def add(self, batch: Sequence[Candidate]) -> AddReport:
        """`CVTArchive.add`, on the disk when it returns.

        Raises:
            BudgetExceeded: the disk is full. What was added before is safe; open the folder again when there is room.
        """
        before = self.archive.seen
        report = self.archive.add(batch)
        stayed = [(batch[row], before + row) for row in np.flatnonzero(report.outcome > Outcome.REJECTED).tolist()]
        try:
            mapped = self._journal.append(stayed, self.archive.seen)
        except OSError as error:
            raise BudgetExceeded(
                f"{len(stayed)} elites could not be written to {self.path}: {error.strerror}",
                hint="make room and open the archive again: it is as it was before them",
            ) from error
        if mapped:
            self.archive.rehouse(mapped)
        return report

    def compact(self) -> None:
        """A new snapshot in place of the last one and the journal."""
        generation = self._journal.generation
        write_snapshot(self.archive, self.path, generation + 1)
        self._journal = _Journal(self.path, generation + 1)
        for old in sorted(self.path.glob(f"*-{generation:04d}*")):
            shutil.rmtree(old) if old.is_dir() else old.unlink()


class _Journal:
    """What was added since snapshot number `generation`."""

    def __init__(self, folder: Path, generation: int) -> None:
        self.generation = generation
        self._lines = CheckedLines(folder / f"journal-{generation:04d}.jsonl", "archive")
        self._genomes = folder / f"journal-{generation:04d}"

    def append(self, elites: Sequence[tuple[Candidate, int]], seen: int) -> dict[str, Genome]:
        """Write what stayed of one batch, each with its birth; genomes of arrays by id, as they are mapped from now on.

        Raises:
            OSError: it could not be written; nothing of it counts.
        """
        ids = [genome_id(candidate.genome) for candidate, _ in elites]
        tensors = [(i, c.genome) for i, (c, _) in zip(ids, elites, strict=True) if has_tensors(c.genome)]
        name = None
        if tensors:
            self._genomes.mkdir(exist_ok=True)
            name = f"{sum(1 for _ in self._genomes.iterdir()):06d}.safetensors"
            write_shard(self._genomes / name, tensors)
            with (self._genomes / name).open("rb") as file:
                os.fsync(file.fileno())
        entries = [_entry(i, c, name) | {"birth": birth} for i, (c, birth) in zip(ids, elites, strict=True)]
        self._lines.append({"seen": seen, "elites": entries})
        shard = Shard(self._genomes / name) if name else None
        return {i: shard.genome(i) for i, _ in tensors} if shard else {}

    def batches(self) -> Iterator[tuple[list[tuple[Candidate, int]], int]]:
        """(elites with their births, candidates seen) of each batch, in order. A last line cut off does not count.

        Raises:
            ArchiveFormatError: a line was changed.
        """
        shards: dict[str, Shard] = {}
        for batch in self._lines:
            for name in sorted({entry["shard"] for entry in batch["elites"] if "shard" in entry} - set(shards)):
                shards[name] = Shard(self._genomes / Path(name).name)
            yield [(_candidate(entry, shards), entry["birth"]) for entry in batch["elites"]], batch["seen"]

    def forget_torn_end(self) -> None:
        """Cut off what a crash left of a last line."""
        self._lines.forget_torn_end()


def _entry(identity: str, candidate: Candidate, shard: str | None) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "id": identity, "measures": np.asarray(candidate.measures, np.float64).tolist(),
        "quality": float(candidate.quality), "n": int(candidate.n), "m2": float(candidate.m2),
        "violation": float(candidate.violation), "meta": dict(candidate.meta), "parents": list(candidate.parents),
        "examples": None if candidate.examples is None else np.asarray(candidate.examples).tolist(),
    }  # fmt: skip
    genome = candidate.genome
    if has_tensors(genome):
        return entry | {"shard": shard}
    assert not isinstance(genome, np.ndarray)
    return entry | {"genome": dict(genome)}


def _candidate(entry: dict[str, Any], shards: dict[str, Shard]) -> Candidate:
    examples = entry["examples"]
    return Candidate(
        shards[entry["shard"]].genome(entry["id"]) if "shard" in entry else entry["genome"],
        np.array(entry["measures"]), entry["quality"], entry["n"], entry["m2"], entry["violation"],
        None if examples is None else np.array(examples), entry["meta"], tuple(entry["parents"]),
    )  # fmt: skip
