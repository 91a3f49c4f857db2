"""A search that was stopped, killed or out of disk goes on to what it would have been; another search is refused."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
from collections import Counter

import pytest

from tests.toolkit.search.stubbed_search import SPACE, archive, bytes_of, contents, search, settings, target
from toolkit.errors import ArchiveFormatError, BudgetExceeded, SlimeError
from toolkit.search.checked_lines import CheckedLines
from toolkit.search.config_space import ConfigSpace
from toolkit.search.folder import save
from toolkit.search.genes import Choice
from toolkit.search.runner import SearchRunner, SearchStopped
from toolkit.search.trials import Budget

# ---- stopped in good order


@pytest.mark.slow
def test_a_search_in_two_parts_is_the_search_in_one(tmp_path):
    small = settings(generation=5, start=20)
    whole = search(tmp_path / "a", 5 * 60, settings=small)
    search(tmp_path / "b", 5 * 30, settings=small)
    again = search(tmp_path / "b", 5 * 60, settings=small)
    assert (again.finished, again.evaluated) == (5 * 60, 5 * 30)
    save(whole.archive, tmp_path / "a" / "archive")
    save(again.archive, tmp_path / "b" / "archive")
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")
    assert again.bandit.pulls == whole.bandit.pulls == whole.leaders.pulls == again.leaders.pulls
    emitters = Counter(e.meta["emitter"] for e in whole.archive)
    assert {"genetic", "blocks", "front"} <= set(emitters)


def test_a_search_without_a_barrier_resumes_with_all_it_knew(tmp_path):
    free = settings(deterministic=False)
    first = search(tmp_path / "a", 70, settings=free)
    again = search(tmp_path / "a", 90, settings=free)
    assert (again.finished, again.evaluated) == (90, 20)
    assert again.archive.seen == 90
    for elite in first.archive:
        kept = again.archive.get(elite.cell)
        assert kept is not None
        assert kept.quality >= elite.quality


def test_an_interrupted_run_goes_on():
    def interrupted(trial):
        if trial.id == 40:
            raise KeyboardInterrupt
        return target(trial)

    runner = SearchRunner(SPACE, archive(), settings())
    with pytest.raises(KeyboardInterrupt):
        runner.run(interrupted, Budget(64))
    runner.run(target, Budget(64))
    straight = SearchRunner(SPACE, archive(), settings())
    straight.run(target, Budget(64))
    assert contents(runner.archive) == contents(straight.archive)


def test_five_alike_failures_in_a_row_stop_a_search_which_resumes_when_they_are_mended(tmp_path):
    asked = []

    def broken(trial):
        asked.append(trial.id)
        if trial.id >= 20:
            raise FileNotFoundError("no weights.bin")
        return target(trial)

    with pytest.raises(SearchStopped, match=r"5 evaluations in a row failed as FileNotFoundError: .*no weights\.bin"):
        search(tmp_path / "a", 64, broken)
    assert asked == list(range(25))
    mended = search(tmp_path / "a", 64)
    assert (mended.finished, mended.failures, mended.evaluated) == (64, 0, 64 - 20)
    straight = search(tmp_path / "b", 64)
    assert (tmp_path / "a" / "journal.jsonl").read_bytes() == (tmp_path / "b" / "journal.jsonl").read_bytes()
    assert contents(mended.archive) == contents(straight.archive)


# ---- cut off


def _search_until_killed(folder, told):
    def slow(trial):
        told.put(trial.id)
        return target(trial)

    search(folder, 100_000, slow)


def test_a_kill_loses_no_finished_evaluation(tmp_path):
    context = multiprocessing.get_context("fork")
    told = context.Queue()
    running = context.Process(target=_search_until_killed, args=(tmp_path / "a", told))
    running.start()
    while told.get(timeout=60) < 37:  # in the middle of the third generation
        pass
    os.kill(running.pid, signal.SIGKILL)
    running.join()
    written = [tmp_path / "a" / name for name in ("journal.jsonl", "waiting.jsonl")]
    lines = [line for path in written if path.exists() for line in path.read_bytes().splitlines(keepends=True)]
    finished = [json.loads(line.partition(b" ")[2]) for line in lines if line.endswith(b"\n")]
    known = {t["id"] for entry in finished for t in entry.get("trials", [entry])}
    assert len(known) >= 37
    asked = []
    total = (max(known) // 16 + 2) * 16

    def counted(trial):
        asked.append(trial.id)
        return target(trial)

    resumed = search(tmp_path / "a", total, counted)
    assert sorted(asked) == sorted(set(range(total)) - known)
    straight = search(tmp_path / "b", total)
    assert contents(resumed.archive) == contents(straight.archive)
    assert (tmp_path / "a" / "journal.jsonl").read_bytes() == (tmp_path / "b" / "journal.jsonl").read_bytes()


def test_a_torn_line_costs_what_it_held(tmp_path):
    straight = search(tmp_path / "a", 64)
    search(tmp_path / "b", 64)
    journal = tmp_path / "b" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    again = search(tmp_path / "b", 64)
    assert (again.evaluated, again.finished) == (16, 64)
    assert contents(again.archive) == contents(straight.archive)
    assert journal.read_bytes() == (tmp_path / "a" / "journal.jsonl").read_bytes()


def test_a_crash_between_both_files_repeats_nothing(tmp_path):
    search(tmp_path / "a", 40)
    unfinished = (tmp_path / "a" / "waiting.jsonl").exists()
    search(tmp_path / "b", 32)
    group = list(CheckedLines(tmp_path / "b" / "journal.jsonl", "search"))[-1]["trials"]
    for entry in group:  # as if the process had ended before it cleared the file
        CheckedLines(tmp_path / "b" / "waiting.jsonl", "search").append(entry)
    again = search(tmp_path / "b", 40)
    assert not unfinished
    assert (again.finished, again.evaluated, again.archive.seen) == (40, 8, 40)
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")


def test_a_full_disk_loses_nothing_that_was_finished(tmp_path):
    search(tmp_path / "a", 32)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, hard))
    try:
        with pytest.raises(BudgetExceeded, match="an evaluation could not be written"):
            search(tmp_path / "a", 64)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert search(tmp_path / "a", 64).evaluated < 32
    search(tmp_path / "b", 64)
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")


# ---- refused


def test_damage_and_other_searches_are_refused(tmp_path):
    search(tmp_path / "a", 32)
    with pytest.raises(ArchiveFormatError, match="holds another search: its seed differs"):
        search(tmp_path / "a", 32, settings=settings(seed=1))
    other = ConfigSpace([Choice("a", (1, 2))])
    with pytest.raises(ArchiveFormatError, match="its space differs"):  # noqa: SIM117
        with SearchRunner.opened(tmp_path / "a", other, archive(), settings()):
            pass
    with SearchRunner.opened(tmp_path / "a", SPACE, archive(), settings()):  # noqa: SIM117
        with pytest.raises(SlimeError, match="another process writes to"):
            search(tmp_path / "a", 32)
    raw = bytearray((tmp_path / "a" / "journal.jsonl").read_bytes())
    raw[50] ^= 1
    (tmp_path / "a" / "journal.jsonl").write_bytes(raw)
    with pytest.raises(ArchiveFormatError, match=r"line 1 of journal\.jsonl was changed") as caught:
        search(tmp_path / "a", 32)
    assert str(tmp_path / "a") in caught.value.problem
    assert "search into another folder" in caught.value.hint


def test_what_makes_it_another_search_is_told_in_its_own_words(tmp_path):
    def contexts(**parts):
        return settings(context=json.dumps({"model": "0" * 64, "limit": {"latency_s": 0.02}} | parts))

    search(tmp_path / "a", 32, settings=contexts())
    assert search(tmp_path / "a", 32, settings=contexts()).evaluated == 0
    with pytest.raises(ArchiveFormatError, match=r"another search: its model differs$"):
        search(tmp_path / "a", 32, settings=contexts(model="1" * 64))
    with pytest.raises(ArchiveFormatError, match=r'its limit differs: it was {"latency_s": 0.02}, and is {}$'):
        search(tmp_path / "a", 32, settings=contexts(limit={}))
    with pytest.raises(ArchiveFormatError, match=r"its seed differs: it was 0, and is 1$"):
        search(tmp_path / "a", 32, settings=settings(seed=1, context=contexts(limit={}).context))
    with pytest.raises(ArchiveFormatError, match=r"its context differs$"):
        search(tmp_path / "a", 32, settings=settings(context="something else"))
    (tmp_path / "a" / "search.json").write_text("[]")
    with pytest.raises(ArchiveFormatError, match="cannot be read"):
        search(tmp_path / "a", 32)
