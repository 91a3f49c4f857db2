"""One file of a folder: its codec against the format's description, and what it does when it is started."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.standalone.one_file import NAME, Codec, codec, one_file

PROGRAM = """#!/bin/sh
case "$1" in
 where) echo "$TOOLKIT_RUNNER_FILE"; dirname "$0" ;;
 link) cat "$(dirname "$0")/inner/link" ;;
 wait) echo started; trap 'echo told; exit 9' TERM; while :; do sleep 0.02; done ;;
 kill) kill -9 $$ ;;
 *) echo "$@"; exit 7 ;;
esac
"""


@pytest.fixture(scope="module")
def lz4() -> Iterator[Codec]:
    with codec() as made:
        yield made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("program")
    (made / "inner/deep").mkdir(parents=True)
    (made / "start").write_text(PROGRAM)
    (made / "start").chmod(0o755)
    (made / "inner/deep/large").write_bytes(random.Random(0).randbytes(100) * 25_000 + b"end")
    (made / "inner/deep/noise").write_bytes(random.Random(1).randbytes(1_500_000))
    (made / "inner/empty").touch()
    (made / "inner/text").write_text("linked to")
    (made / "inner/link").symlink_to("text")
    return made


@pytest.fixture(scope="module")
def packed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return one_file(folder, "start", tmp_path_factory.mktemp("packed") / "program")


def started(program: Path, *arguments: str, tmp: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False, env={"TMPDIR": str(tmp)})


def expanded(block: bytes) -> bytes:
    """As the description of the block format says, and nothing else."""
    made, at = bytearray(), 0

    def length(first: int) -> int:
        nonlocal at
        total = first
        while first == 15:
            more, at = block[at], at + 1
            total += more
            if more != 255:
                break
        return total

    while True:
        token, at = block[at], at + 1
        count = length(token >> 4)
        made += block[at : at + count]
        at += count
        if at == len(block):
            return bytes(made)
        distance, at = int.from_bytes(block[at : at + 2], "little"), at + 2
        assert 0 < distance <= len(made)
        for _ in range(length(token & 15) + 4):
            made.append(made[-distance])


PIECES = st.lists(st.tuples(st.binary(min_size=1, max_size=40), st.integers(1, 60)), max_size=12)


@settings(deadline=None)
@given(pieces=PIECES)
def test_blocks_are_those_of_the_format(lz4: Codec, pieces: list[tuple[bytes, int]]) -> None:
    content = b"".join(part * times for part, times in pieces)
    block = lz4.compress(content)
    if not block:  # it would not become shorter
        assert len(content) < 400
        return
    assert len(block) <= len(content)
    assert expanded(block) == content
    assert lz4.expand(block, len(content)) == content
    assert lz4.expand(block, len(content) - 1) == b""


def test_a_whole_block_of_one_byte_shrinks_to_a_match(lz4: Codec) -> None:
    content = bytes(1 << 20)
    block = lz4.compress(content)
    assert len(block) < 4200  # 255 bytes of a match for each byte
    assert lz4.expand(block, len(content)) == content


def test_noise_is_not_compressed(lz4: Codec) -> None:
    assert lz4.compress(random.Random(2).randbytes(5000)) == b""


@settings(deadline=None)
@given(block=st.binary(max_size=200), room=st.integers(0, 5000))
def test_damaged_blocks_expand_to_nothing_or_to_what_fits(lz4: Codec, block: bytes, room: int) -> None:
    assert len(lz4.expand(block, room)) <= room


def test_sums_tell_one_bit(lz4: Codec) -> None:
    content = random.Random(3).randbytes(1001)
    for place in (0, 500, 1000):
        changed = bytearray(content)
        changed[place] ^= 1
        assert lz4.sum(bytes(changed)) != lz4.sum(content)


def test_arguments_and_exit_code_are_passed_on_and_nothing_is_left(packed: Path, tmp_path: Path) -> None:
    done = started(packed, "a b", "c", tmp=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (7, "a b c\n", "")
    assert list(tmp_path.iterdir()) == []


def test_every_file_is_there_with_its_mode(folder: Path, tmp_path: Path) -> None:
    (folder / "start").write_text(PROGRAM.replace('*) echo "$@"', f'*) cp -a "$(dirname "$0")" {tmp_path}/copy'))
    try:
        program = one_file(folder, "start", tmp_path / "copier")
    finally:
        (folder / "start").write_text(PROGRAM)
    started(program, tmp=tmp_path)
    for path in folder.rglob("*"):
        copy = tmp_path / "copy" / path.relative_to(folder)
        assert copy.is_symlink() == path.is_symlink()
        if path.is_file() and path.name != "start":
            assert copy.read_bytes() == path.read_bytes()
            assert copy.stat().st_mode & 0o700 == path.stat().st_mode & 0o700


def test_it_says_where_it_is_however_it_was_started(packed: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(packed)
    file, folder = started(link, "where", tmp=tmp_path).stdout.splitlines()
    assert file == str(packed.resolve())
    assert Path(folder).parent == tmp_path
    assert NAME == "TOOLKIT_RUNNER_FILE"
    assert started(packed, "link", tmp=tmp_path).stdout == "linked to"


def test_equal_folders_give_equal_bytes(folder: Path, packed: Path, tmp_path: Path) -> None:
    assert one_file(folder, "start", tmp_path / "again").read_bytes() == packed.read_bytes()


def test_a_signal_comes_to_the_program_and_its_end_comes_back(packed: Path, tmp_path: Path) -> None:
    with subprocess.Popen(
        [packed, "wait"], stdout=subprocess.PIPE, text=True, env={"TMPDIR": str(tmp_path)}
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "started\n"
        time.sleep(0.1)
        running.send_signal(signal.SIGTERM)
        assert running.stdout.read() == "told\n"
    assert running.returncode == 9
    assert started(packed, "kill", tmp=tmp_path).returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", [700_000, 100, 30, 4])
def test_a_damaged_file_is_told_and_nothing_is_run(packed: Path, tmp_path: Path, place: int) -> None:
    """From the end: a block, the table, its sum, what the file is known by."""
    content = bytearray(packed.read_bytes())
    content[-place] ^= 4
    program = tmp_path / "damaged"
    program.write_bytes(content)
    program.chmod(0o755)
    (tmp_path / "t").mkdir()
    done = started(program, tmp=tmp_path / "t")
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr == f"error: {program} is damaged\n  next: copy it again\n"
    assert list((tmp_path / "t").iterdir()) == []


def test_a_file_cut_short_is_told(packed: Path, tmp_path: Path) -> None:
    program = tmp_path / "short"
    program.write_bytes(packed.read_bytes()[:-1000])
    program.chmod(0o755)
    done = started(program, tmp=tmp_path)
    assert (done.returncode, done.stderr.splitlines()[1]) == (5, "  next: copy it again")


def test_no_space_is_told_with_how_much_is_needed(packed: Path, tmp_path: Path) -> None:
    limited = f"ulimit -f 1000; trap '' XFSZ; exec {packed}"  # files of 512,000 bytes
    done = subprocess.run(
        ["sh", "-c", limited], capture_output=True, text=True, check=False, env={"TMPDIR": str(tmp_path)}
    )
    assert done.returncode == 5
    assert "File too large" in done.stderr
    assert "next: set TMPDIR to a folder with 5 MB of space" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_another_place_is_taken_where_the_first_cannot_be_written(packed: Path, tmp_path: Path) -> None:
    done = started(packed, "where", tmp=tmp_path / "gone")
    assert done.returncode == 0
    assert not os.path.exists(done.stdout.splitlines()[1])
