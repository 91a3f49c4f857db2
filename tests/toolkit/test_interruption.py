"""Kill -9 at any moment: the next run goes on, ends in the same bytes, and nothing is left lying about."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from toolkit.bundle import atomic
from toolkit.bundle.atomic import replacing_folder
from toolkit.bundle.layout import TIMINGS
from toolkit.rng import generator

MOMENTS = 10
ROOT = Path(__file__).parents[2]


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a bundle but the one that may differ."""
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != TIMINGS)
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


class Compiler:
    """`toolkit compile` of the built-in example in a process group of its own, with a cache of its own."""

    def __init__(self, folder: Path, cache: str) -> None:
        self.folder = folder
        self.environment = {**os.environ, "TOOLKIT_CACHE": str(folder / cache), "PYTHONPATH": str(ROOT)}

    def start(self, output: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "toolkit.cli.main", "compile", "digits", "-t", "raspberry_pi_4", "-q"]
        return subprocess.Popen(
            [*command, "-o", output], cwd=self.folder, env=self.environment, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip

    def finish(self, output: str) -> float:
        """Seconds that a whole run takes."""
        begin = time.perf_counter()
        process = self.start(output)
        assert process.stderr is not None
        message = process.stderr.read().decode()
        assert process.wait() == 0, message
        return time.perf_counter() - begin

    def kill_after(self, seconds: float, output: str) -> bool:
        """Start a run and kill its process group; whether it was still running."""
        process = self.start(output)
        time.sleep(seconds)
        running = process.poll() is None
        if running:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return running


@pytest.mark.slow
def test_a_compile_killed_at_ten_moments_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    undisturbed = Compiler(tmp_path, "cache-of-its-own")
    whole_s = undisturbed.finish("undisturbed")
    want = content(tmp_path / "undisturbed")
    rng = generator(0, "moments of a kill")
    killed = 0
    for round_, share in enumerate(np.sort(rng.uniform(0.05, 1.0, MOMENTS))):
        place = tmp_path / f"round{round_}"
        place.mkdir()
        if round_ % 2:
            shutil.copytree(tmp_path / "undisturbed", place / "bundle")
        compiler = Compiler(place, "cache")
        killed += compiler.kill_after(share * whole_s, "bundle")
        if round_ % 2 or (place / "bundle").exists():
            assert content(place / "bundle") == want, "what stands under its name is whole, and an old one stays"
        compiler.finish("bundle")
        assert content(place / "bundle") == want
        assert sorted(p.name for p in place.iterdir()) == ["bundle", "cache"]
    assert killed >= MOMENTS - 3, "too few runs were cut off to show anything"


# ---- what a kill leaves beside the output


def write(target: Path, text: str) -> None:
    with replacing_folder(target, marker="manifest.json") as scratch:
        (scratch / "manifest.json").write_text(text)


def test_scratch_that_nobody_holds_goes_with_the_next_run(tmp_path: Path) -> None:
    for name in (".bundle.toolkit-abcd1234", ".bundle.toolkit-abcd1234.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_text("half")
    strangers = [".bundle.toolkit-short", ".bundle-abcd1234", ".other.toolkit-abcd1234", ".bundle.toolkit-abcd1234.bak"]
    for name in strangers:
        (tmp_path / name).mkdir()
    write(tmp_path / "bundle", "new")
    write(tmp_path / "bundle", "newer")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["bundle", *strangers])
    assert (tmp_path / "bundle" / "manifest.json").read_text() == "newer"


def test_an_old_bundle_that_was_moved_away_comes_back(tmp_path: Path) -> None:
    left = tmp_path / ".bundle.toolkit-abcd1234.old"
    left.mkdir()
    (left / "manifest.json").write_text("old")

    def fail() -> None:
        with replacing_folder(tmp_path / "bundle", marker="manifest.json"):
            assert (tmp_path / "bundle" / "manifest.json").read_text() == "old"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_scratch_of_a_run_that_goes_on_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    with replacing_folder(target, marker="manifest.json") as first:
        (first / "manifest.json").write_text("first")
        write(target, "second")
        assert (first / "manifest.json").read_text() == "first"
    assert (target / "manifest.json").read_text() == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    write(target, "old")
    renames: list[tuple[object, object]] = []
    replace = os.replace

    def once(source: object, destination: object) -> None:
        renames.append((source, destination))
        if len(renames) == 2:
            os._exit(9)
        replace(source, destination)  # type: ignore[arg-type]

    child = os.fork()
    if child == 0:
        try:
            atomic.os.replace = once  # type: ignore[assignment]
            write(target, "new")
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert not target.exists()
    with replacing_folder(target, marker="manifest.json"):
        assert (target / "manifest.json").read_text() == "old"
