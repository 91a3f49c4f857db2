"""Archives on the disk: equal when read back, whole after a kill, and never believed when a byte was changed."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
from pathlib import Path

import numpy as np
import pytest

from toolkit.errors import ArchiveFormatError, BudgetExceeded, SlimeError
from toolkit.search.archive import CVTArchive
from toolkit.search.behavior import BehaviorSpace
from toolkit.search.centroids import cvt_centroids
from toolkit.search.elites import Candidate
from toolkit.search.folder import ArchiveFolder, load, save
from toolkit.search.measures import Measure

SPACE = BehaviorSpace([Measure(name="latency_s", unit="s", low=1e-3, high=1.0, transform="log", larger_is="worse"),
                       Measure(name="sparsity", unit="1", low=0.0, high=1.0)])  # fmt: skip
CENTROIDS = cvt_centroids(12, 2, n_samples=1_000)


def archive(**rules):
    return CVTArchive(SPACE, CENTROIDS, **{"quality_min": 0.0, "quality_max": 1.0, **rules})


def candidates(count, seed=0, kind="mixed"):
    rng = np.random.default_rng(seed)
    genomes = {
        "configuration": lambda k: {"bits": [4, 8], "k": k, "seed": seed},
        "array": lambda k: rng.random(6),
        "arrays": lambda k: {"w": rng.random((3, 4)).astype(np.float32), "steps": np.array([k, seed])},
    }
    kinds = list(genomes) if kind == "mixed" else [kind]
    return [
        Candidate(genomes[kinds[k % len(kinds)]](k), np.array([10 ** rng.uniform(-3, 0), rng.random()]), rng.random(),
                  n=2, m2=0.01, examples=rng.random(3), meta={"fidelity": k % 3})
        for k in range(count)
    ]  # fmt: skip


def contents(of):
    return [(e.cell, e.id, e.evaluation, e.violation, e.birth, e.curiosity, e.meta, e.parents, tuple(e.measures),
             None if e.examples is None else tuple(e.examples), _plain(e.genome)) for e in of] + [of.seen]  # fmt: skip


def _plain(genome):
    if isinstance(genome, np.ndarray):
        return genome.tolist()
    return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in genome.items()}


@pytest.mark.parametrize("rules", [{}, {"policy": "paired"}, {"front_size": 3, "objectives": ["latency_s"]}])
def test_what_is_read_is_what_was_written(tmp_path, rules):
    kept = archive(**rules)
    kept.add(candidates(60))
    children = [c._replace(parents=(next(iter(kept)).id,)) for c in candidates(20, seed=1)]
    kept.add(children)
    save(kept, tmp_path / "a")
    again = load(tmp_path / "a")
    assert contents(again) == contents(kept)
    assert (again.space.digest, again.cells.digest, again.rules) == (kept.space.digest, kept.cells.digest, kept.rules)
    again.add(candidates(30, seed=2))
    kept.add(candidates(30, seed=2))
    assert contents(again) == contents(kept)
    with pytest.raises(ArchiveFormatError, match="is not empty"):
        save(kept, tmp_path / "a")


def test_a_journal_and_its_compaction_hold_what_memory_holds(tmp_path):
    save(archive(), tmp_path / "a")
    beside = archive()
    for seed in range(4):
        with ArchiveFolder.opened(tmp_path / "a") as folder:
            for start in range(0, 30, 10):
                batch = candidates(30, seed)[start : start + 10]
                folder.add(batch)
                beside.add(batch)
            assert contents(folder.archive) == contents(beside)
            if seed == 1:
                folder.compact()
                assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [
                    "generation-0002",
                    "lock",
                    "manifest.json",
                ]
        assert contents(load(tmp_path / "a")) == contents(beside)


def _write_until_killed(path: Path, told: multiprocessing.Queue) -> None:
    with ArchiveFolder.opened(path) as folder:
        for seed in range(10_000):
            folder.add(candidates(5, seed))
            told.put(seed)


def test_what_was_added_survives_a_kill(tmp_path):
    save(archive(), tmp_path / "a")
    context = multiprocessing.get_context("fork")
    told = context.Queue()
    writer = context.Process(target=_write_until_killed, args=(tmp_path / "a", told))
    writer.start()
    while told.get(timeout=60) < 5:
        pass
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    known = load(tmp_path / "a")
    finished = known.seen // 5
    assert finished >= 6
    beside = archive()
    for seed in range(finished):
        beside.add(candidates(5, seed))
    assert [e.id for e in known] == [e.id for e in beside]
    with ArchiveFolder.opened(tmp_path / "a") as folder:
        folder.add(candidates(5, 99_999))
    assert len(load(tmp_path / "a")) >= len(known)


def test_a_torn_last_line_does_not_count(tmp_path):
    save(archive(), tmp_path / "a")
    with ArchiveFolder.opened(tmp_path / "a") as folder:
        folder.add(candidates(5, 0))
        whole = contents(folder.archive)
        folder.add(candidates(5, 1))
    journal = tmp_path / "a" / "journal-0001.jsonl"
    journal.write_bytes(journal.read_bytes()[:-20])
    assert contents(load(tmp_path / "a")) == whole
    with ArchiveFolder.opened(tmp_path / "a") as folder:
        folder.add(candidates(5, 1))
        expected = contents(folder.archive)
    assert contents(load(tmp_path / "a")) == expected


def _damage(path: Path, position: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[position] ^= 0x10
    path.write_bytes(bytes(raw))


@pytest.mark.parametrize("name", ["centroids.npy", "elites.jsonl", "index.npz", "space.json"])
def test_a_flipped_bit_is_noticed(tmp_path, name):
    kept = archive()
    kept.add(candidates(20))
    save(kept, tmp_path / "a")
    _damage(tmp_path / "a" / "generation-0001" / name, -30)
    with pytest.raises(ArchiveFormatError, match=f"{name} of .* was changed"):
        load(tmp_path / "a")


def test_a_flipped_bit_of_a_genome_is_noticed_when_it_is_looked_at(tmp_path):
    kept = archive()
    kept.add(candidates(20, kind="arrays"))
    save(kept, tmp_path / "a")
    _damage(tmp_path / "a" / "generation-0001" / "genomes-0000.safetensors", -1)
    elites = list(load(tmp_path / "a"))
    with pytest.raises(ArchiveFormatError, match="was changed"):
        [elite.genome["w"] for elite in elites]


def test_damage_in_the_journal_is_noticed(tmp_path):
    save(archive(), tmp_path / "a")
    with ArchiveFolder.opened(tmp_path / "a") as folder:
        folder.add(candidates(5))
    _damage(tmp_path / "a" / "journal-0001.jsonl", 40)
    with pytest.raises(ArchiveFormatError, match=r"line 1 of journal-0001\.jsonl was changed"):
        load(tmp_path / "a")


@pytest.mark.parametrize("name", ["genomes-0000.safetensors", "index.npz"])
def test_a_file_that_was_cut_off_is_named(tmp_path, name):
    kept = archive()
    kept.add(candidates(20, kind="arrays"))
    save(kept, tmp_path / "a")
    path = tmp_path / "a" / "generation-0001" / name
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ArchiveFormatError, match=name):
        load(tmp_path / "a")


def test_other_versions_and_other_folders_are_refused(tmp_path):
    save(archive(), tmp_path / "a")
    manifest = tmp_path / "a" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": "edge-toolkit archive 7"}))
    with pytest.raises(ArchiveFormatError, match="of the format 'edge-toolkit archive 7'"):
        load(tmp_path / "a")
    with pytest.raises(ArchiveFormatError, match="is no archive"):
        load(tmp_path)


def test_paths_in_a_manifest_do_not_leave_the_folder(tmp_path):
    save(archive(), tmp_path / "a")
    manifest = tmp_path / "a" / "manifest.json"
    stated = json.loads(manifest.read_text())
    stated["files"]["../../secret"] = "0"
    manifest.write_text(json.dumps(stated))
    with pytest.raises(ArchiveFormatError, match=r"secret of .* was changed"):
        load(tmp_path / "a")


def test_one_writer_at_a_time(tmp_path):
    save(archive(), tmp_path / "a")
    with ArchiveFolder.opened(tmp_path / "a"):
        with pytest.raises(SlimeError, match="another process writes to"), ArchiveFolder.opened(tmp_path / "a"):
            pass
        load(tmp_path / "a")
    with ArchiveFolder.opened(tmp_path / "a"):
        pass


def test_a_full_disk_loses_nothing_that_was_finished(tmp_path):
    save(archive(), tmp_path / "a")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with ArchiveFolder.opened(tmp_path / "a") as folder:
        folder.add(candidates(5, kind="configuration"))
        finished = contents(folder.archive)
        size = (tmp_path / "a" / "journal-0001.jsonl").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, hard))
        try:
            with pytest.raises(BudgetExceeded, match="could not be written"):
                folder.add(candidates(40, seed=1, kind="configuration"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, before)
    assert contents(load(tmp_path / "a")) == finished


def test_genomes_on_the_disk_take_no_memory_of_their_own(tmp_path):
    save(archive(), tmp_path / "a")
    with ArchiveFolder.opened(tmp_path / "a") as folder:
        folder.add(candidates(20, kind="arrays"))
        elite = next(iter(folder.archive))
        assert not elite.genome["w"].flags.owndata
        with pytest.raises(ValueError, match="read-only"):
            elite.genome["w"][0] = 1
