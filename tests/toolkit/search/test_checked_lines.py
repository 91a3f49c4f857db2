"""A kill may cut the last line of a file at any byte: what was whole before stays, and what comes after is whole."""

from __future__ import annotations

import numpy as np

from toolkit.search.archive import CVTArchive
from toolkit.search.behavior import BehaviorSpace
from toolkit.search.centroids import cvt_centroids
from toolkit.search.checked_lines import CheckedLines
from toolkit.search.elites import Candidate
from toolkit.search.evaluation_journal import EvaluationJournal, Record
from toolkit.search.folder import ArchiveFolder, load, save
from toolkit.search.measures import Measure
from toolkit.search.trials import Evaluated, Failure, Trial


def cuts(path):
    """The file, once for every length that lacks a part of its last line; the empty last line first."""
    content = path.read_bytes()
    for end in range(content.rstrip(b"\n").rfind(b"\n") + 1, len(content)):
        path.write_bytes(content[:end])
        yield end


def test_lines_cut_at_every_byte(tmp_path):
    lines = CheckedLines(tmp_path / "lines", "test")
    for k in range(3):
        lines.append({"k": k, "text": "line\nand \u2028 ümlaut"})
    known = list(lines)
    for _ in cuts(lines.path):
        assert list(lines) == known[:2]
        lines.forget_torn_end()
        lines.append({"after": 1})
        assert list(lines) == [*known[:2], {"after": 1}]


def test_an_archive_cut_at_every_byte_of_its_journal(tmp_path):
    space = BehaviorSpace([Measure(name="sparsity", unit="1", low=0.0, high=1.0)])
    save(CVTArchive(space, cvt_centroids(4, 1, n_samples=100), quality_min=0.0, quality_max=1.0), tmp_path / "a")
    offered = [Candidate({"k": k}, np.array([k / 4 + 0.1]), 0.5) for k in range(3)]
    with ArchiveFolder.opened(tmp_path / "a") as folder:
        for candidate in offered[:2]:
            folder.add([candidate])
    journal = tmp_path / "a" / "journal-0001.jsonl"
    for end in cuts(journal):
        assert [elite.genome for elite in load(tmp_path / "a")] == [offered[0].genome]
        if end % 9 == 0:
            with ArchiveFolder.opened(tmp_path / "a") as folder:
                folder.add([offered[2]])
            assert [elite.genome for elite in load(tmp_path / "a")] == [offered[0].genome, offered[2].genome]


def test_a_search_cut_at_every_byte_of_what_waits(tmp_path):
    def record(k):
        result = Failure("TimeLimit", "late") if k == 1 else Evaluated(0.5, {"latency_s": 0.1}, meta={"k": k})
        return Record(Trial(k, {"bits": 8}, str(k), 1, (0, "trial", k), "genetic"), result)

    journal = EvaluationJournal(tmp_path)
    journal.close_group([record(0)])
    for k in (1, 2, 3):
        journal.keep(record(k))
    for end in cuts(tmp_path / "waiting.jsonl"):
        assert list(journal.waiting()) == [record(1), record(2)]
        if end % 9 == 0:
            journal.forget_torn_ends()
            journal.keep(record(4))
            assert list(journal.waiting()) == [record(1), record(2), record(4)]
    assert list(journal.groups()) == [[record(0)]]
