"""Run a program without dependencies on its emulated core: answers, memory, instructions."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from passes.dataset import Sample
from targets.errors import InvalidInput, MissingDependency
from toolkit.backends.ahead_of_time.compiling import Built
from toolkit.backends.ahead_of_time.counting import Instructions, count_instructions
from toolkit.backends.ahead_of_time.executing import command
from toolkit.emulator.resident import resident_bytes
from toolkit.emulator.running import Emulated

__all__ = ["program_answers"]

_LOOK_S = 0.05


def program_answers(built: Built, samples: Sequence[Sample]) -> Emulated:
    """Answers of an ahead-of-time program to `samples`.

    Raises:
        MissingDependency: there is no emulator.
        InvalidInput: the program failed, or used an instruction that its core lacks.
    """
    answers = built.many(list(samples), emulate=True)
    one = built.packed(samples[0])
    return Emulated(
        answers=answers,
        runtime="a program by itself",
        cpu=built.machine.emulated_cpu,
        memory_bytes=_memory(built, one),
        network_bytes=built.memory.arena_bytes + built.memory.weight_bytes,
        instructions=_instructions(built, one),
    )


def _instructions(built: Built, sample: bytes) -> Instructions | None:
    """Of one inference: what a second sample adds."""
    try:
        return count_instructions(built.path, built.machine, sample * 2) - count_instructions(
            built.path, built.machine, sample
        )
    except MissingDependency:
        return None


def _memory(built: Built, given: bytes) -> int:
    """What the program holds when it has answered `given` and waits for more: it has one arena, for every sample.

    Raises:
        InvalidInput: it ended before that, though it had answered.
    """
    words = [*command(built.machine, emulate=True), str(built.path.resolve())]
    nowhere = subprocess.DEVNULL
    try:
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=nowhere, stderr=nowhere) as process:
            assert process.stdin is not None
            process.stdin.write(given)
            process.stdin.flush()
            waited = 0
            while waited < 2:
                time.sleep(_LOOK_S)
                waited = waited + 1 if _waits(process.pid) and not _unread(process.stdin) else 0
            return resident_bytes(process.pid)
    except (OSError, KeyError) as error:  # neither a pipe nor figures of a process that is no more
        raise InvalidInput(
            f"{built.path.name} ended while its memory was looked at",
            hint="run it again; if it ends again, report the model",
        ) from error


def _waits(pid: int) -> bool:
    state = Path("/proc", str(pid), "stat").read_text("utf-8").rpartition(")")[2].split()[0]
    if state == "Z":
        raise ProcessLookupError
    return state == "S"


def _unread(pipe: IO[bytes]) -> int:
    """Bytes that were written and not yet read. Source: Linux, ioctl_tty(2), FIONREAD."""
    return int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder)
