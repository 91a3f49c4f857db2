"""The runner that a bundle ships is run as well: its own self-test, emulated where the core is another."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from targets.errors import InvalidInput
from toolkit.backends.ahead_of_time.executing import command
from toolkit.bundle.bundle import Bundle
from toolkit.emulator.board import board
from toolkit.emulator.cores import Core
from toolkit.emulator.root import installed_root

__all__ = ["SelfTest", "self_test"]

_RUNNER = "run/runner"
_LONGEST_S = 600


@dataclass(frozen=True, kw_only=True)
class SelfTest:
    """What the runner said of the golden samples. `shipped_bytes`: of everything in run/.

    `sqnr_db` is that of its answers against those recorded, None where they are identical.
    """

    passed: bool
    sqnr_db: float | None
    shipped_bytes: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def self_test(bundle: Bundle, core: Core, cores: int) -> SelfTest | None:
    """The verdict of the bundle's runner on an emulated `core`; None where it ships none.

    A runner for processors of this machine's kind runs as it is.

    Raises:
        MissingDependency: the emulator is not installed, or not what the runner's library needs there.
        InvalidInput: the runner fails.
    """
    program = bundle.path / _RUNNER
    if not program.is_file():
        return None
    with _before(core, cores, linked=bundle.artifact.format == "executable") as before:
        words = [*before, str(program.resolve()), "--self-test", "--json"]
        environment = {"LANG": "C.UTF-8", "ORT_DISABLE_TELEMETRY": "1", "PATH": os.defpath}
        done = _ended(words, environment)
    try:
        said = json.loads(done.stdout)
        passed, sqnr_db = bool(said["passed"]), said["sqnr_db"]
    except (ValueError, KeyError, TypeError) as error:
        last = (done.stderr.strip() or "no word").splitlines()[0]
        raise InvalidInput(
            f"{_RUNNER} on an emulated {core.name} ended with {done.returncode}: {last}",
            hint="compile the bundle again, with --standalone",
        ) from error
    shipped = sum(file.stat().st_size for file in program.parent.iterdir())
    return SelfTest(passed=passed, sqnr_db=sqnr_db, shipped_bytes=shipped)


def _ended(words: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=_LONGEST_S, check=False, env=environment)
    except subprocess.TimeoutExpired as error:
        raise InvalidInput(
            f"{_RUNNER} ran for more than {_LONGEST_S} s", hint="run its --self-test on the device itself"
        ) from error


@contextmanager
def _before(core: Core, cores: int, *, linked: bool) -> Iterator[list[str]]:
    """What runs the program: QEMU, with the board's C library where the program does not hold its own."""
    words = list(command(core.machine, emulate=core.machine.architecture == "aarch64"))
    if linked or core.machine.architecture != "aarch64":
        yield words
        return
    with board(installed_root().system, core, cores) as prefix:
        yield [*words, "-L", str(prefix)]
