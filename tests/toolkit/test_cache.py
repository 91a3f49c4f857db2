"""The cache keeps to its bound, forgets what was used least recently, and touches nothing that is not its own."""

from __future__ import annotations

import json
import os
from pathlib import Path

import onnx.parser
import onnx_ir
import pytest

from passes.program import Program, onnx_program
from passes.proof import Decision, Proof
from passes.signature import Signature
from toolkit.cache import MAX_BYTES, SEARCH, DiskCache
from toolkit.cli.main import main
from toolkit.search.deployment.kept import Kept

PROOF = Proof(name="P", settings={}, kind="exact", decision=Decision.KEPT)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DiskCache:
    monkeypatch.setenv("TOOLKIT_CACHE", str(tmp_path / "cache"))
    return DiskCache()


@pytest.fixture(scope="module")
def program() -> Program:
    text = '<ir_version: 10, opset_import: ["" : 18]> g (float[1] x) => (float[1] y) { y = Relu(x) }'
    model = onnx_ir.from_proto(onnx.parser.parse_model(text))
    return onnx_program("g", model, Signature((), ()), {})


def key(number: int) -> str:
    return f"{number:02x}" * 32


def filled(cache: DiskCache, program: Program, count: int) -> int:
    """Entries 0 to count - 1, used in this order a minute apart, long ago; returns the bytes of each."""
    for number in range(count):
        cache.store(key(number), program, PROOF)
        os.utime(cache.folder / key(number)[:2] / key(number), (1e9 + 60 * number,) * 2)
    (size,) = {entry.bytes for entry in cache.entries()}
    return size


def names(cache: DiskCache) -> list[int]:
    return [int(entry.path.name[:2], 16) for entry in cache.entries()]


def test_reading_an_entry_makes_it_the_youngest(cache: DiskCache, program: Program) -> None:
    filled(cache, program, 3)
    assert names(cache) == [0, 1, 2]
    assert cache.proof(key(0)) is not None
    assert names(cache) == [1, 2, 0]
    assert cache.proof(key(9)) is None


def test_a_bound_drops_the_least_recently_used(cache: DiskCache, program: Program) -> None:
    size = filled(cache, program, 5)
    dropped = cache.keep_below(3 * size)
    assert [entry.path.name for entry in dropped] == [key(0), key(1)]
    assert names(cache) == [2, 3, 4]
    assert cache.program(key(2), program) is not None
    assert cache.program(key(0), program) is None
    assert cache.keep_below(3 * size) == []


def test_the_bound_is_kept_while_storing_without_a_look_through_the_folder_each_time(
    cache: DiskCache, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = filled(cache, program, 2)
    assert cache.max_bytes == MAX_BYTES
    cache.keep_below(20 * size)
    assert DiskCache().max_bytes == 20 * size
    looks = []
    entries = DiskCache.entries
    monkeypatch.setattr(DiskCache, "entries", lambda self: looks.append(1) or entries(self))
    for number in range(2, 20):
        cache.store(key(number), program, PROOF)
    assert looks == []
    for number in range(20, 60):
        cache.store(key(number), program, PROOF)
    assert 0 < len(looks) <= 40 / 2 + 1  # a tenth of twenty entries goes each time
    assert sum(entry.bytes for entry in entries(cache)) <= 20 * size
    assert names(cache)[-1] == 59


def test_a_cache_that_was_never_counted_is_counted_once(cache: DiskCache, program: Program) -> None:
    size = filled(cache, program, 3)
    for damaged in ("", "[]", '{"bytes": -1}', '{"bytes": "many"}'):
        (cache.folder / "state.json").write_text(damaged)
        assert cache.max_bytes == MAX_BYTES
        cache.store(key(3), program, PROOF)
        assert json.loads((cache.folder / "state.json").read_text())["bytes"] == 4 * size


def test_clearing_leaves_strangers_and_running_compiles_alone(cache: DiskCache, program: Program) -> None:
    filled(cache, program, 2)
    stranger, young, old = (cache.folder / name for name in ("notes.txt", "00/.new-young", "01/.new-old"))
    stranger.write_text("mine")
    for scratch in (young, old):
        scratch.mkdir()
    os.utime(old, (1e9, 1e9))
    assert len(cache.clear()) == 2
    assert cache.entries() == []
    assert (stranger.exists(), young.exists(), old.exists()) == (True, True, False)


def test_the_verb_shows_bounds_and_clears(
    cache: DiskCache, program: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cache", "--json"]) == 0
    empty = json.loads(capsys.readouterr().out)
    assert (empty["entries"], empty["bytes"], empty["oldest_use"]) == (0, 0, None)
    assert not cache.folder.exists(), "looking makes nothing"
    size = filled(cache, program, 4)
    assert main(["cache", "--max-size", f"{2 * size}B", "--json"]) == 0
    kept = json.loads(capsys.readouterr().out)
    assert (kept["entries"], kept["bytes"], kept["max_bytes"]) == (2, 2 * size, 2 * size)
    assert kept["dropped"] == {"entries": 2, "bytes": 2 * size}
    assert kept["oldest_use"] == "2001-09-09T01:48:40+00:00"
    assert kept["folder"] == str(cache.folder)
    assert main(["cache", "--clear"]) == 0
    assert "dropped 2 finished passes" in capsys.readouterr().out
    assert main(["cache"]) == 0
    assert "0 finished passes" in capsys.readouterr().out


def test_what_searches_keep_is_counted_apart_and_cleared_but_not_bounded(
    cache: DiskCache, program: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    filled(cache, program, 2)
    kept = Kept(cache.folder / SEARCH)
    kept.put("ab12", {"quality": 1.0})
    assert kept.content("cd34", lambda: b"graph") == b"graph"
    stranger = cache.folder / SEARCH / "notes.txt"
    stranger.write_text("mine")
    assert main(["cache", "--max-size", "1B", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["entries"] == 0
    assert shown["search"] == {"entries": 2, "bytes": 21, "dropped": {"entries": 0, "bytes": 0}}
    assert main(["cache"]) == 0
    assert "searches keep 2 files" in capsys.readouterr().out
    assert main(["cache", "--clear"]) == 0
    assert "dropped 2 files of searches" in capsys.readouterr().out
    assert cache.searched() == []
    assert stranger.exists()
    assert Kept(cache.folder / SEARCH).get("ab12") is None


@pytest.mark.parametrize("arguments", [["--max-size", "2"], ["--max-size", "-2GB"], ["--clear", "--max-size", "2GB"]])
def test_the_verb_refuses_what_means_nothing(
    arguments: list[str], cache: DiskCache, program: Program, capsys: pytest.CaptureFixture[str]
) -> None:
    filled(cache, program, 1)
    assert main(["cache", *arguments]) == 2
    assert "--max-size" in capsys.readouterr().err
    assert len(cache.entries()) == 1


def test_a_folder_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TOOLKIT_CACHE", str(tmp_path / "file" / "cache"))
    assert main(["cache", "--max-size", "1GB"]) == 5
    assert "cannot change the cache" in capsys.readouterr().err
