"""Run a program of some processor: as it is where this machine is of that kind, elsewhere through QEMU."""

from __future__ import annotations

import platform
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from targets.errors import InvalidInput, MissingDependency
from toolkit.backends.ahead_of_time.machines import Machine

__all__ = ["command", "execute", "run"]

_LONGEST_S = 600


def command(machine: Machine, *, emulate: bool = False) -> tuple[str, ...]:
    """What to put before a program of `machine`: nothing where it runs as it is, unless `emulate`.

    Raises:
        MissingDependency: there is no emulator.
    """
    if platform.machine() == machine.architecture and not emulate:
        return ()
    for name in (machine.emulator, machine.emulator.removesuffix("-static")):
        if found := shutil.which(name):
            return (found, "-cpu", machine.emulated_cpu)
    raise MissingDependency(
        f"no emulator for {machine.name}",
        hint="apt-get install qemu-user-static (or qemu-user)",
    )


def execute(
    program: Path, machine: Machine, given: bytes, *, arguments: Sequence[str] = (), emulate: bool = False
) -> bytes:
    """What the program writes to standard output, given `given` on standard input.

    Raises:
        InvalidInput: it failed, or used an instruction that this processor does not have.
        MissingDependency: there is no emulator.
    """
    return run(command(machine, emulate=emulate), program, machine, given, arguments)


def run(before: Sequence[str], program: Path, machine: Machine, given: bytes, arguments: Sequence[str] = ()) -> bytes:
    """The same with `before` as the emulator and its options."""
    words = [*before, str(program.resolve()), *arguments]
    try:
        done = subprocess.run(words, input=given, capture_output=True, timeout=_LONGEST_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise InvalidInput(f"{program.name} ran for more than {_LONGEST_S} s", hint="give it fewer samples") from error
    if done.returncode in (-signal.SIGILL, 128 + signal.SIGILL):
        raise InvalidInput(
            f"{program.name} holds an instruction that {machine.emulated_cpu} does not have",
            hint=f"compile it for {machine.name}",
        )
    if done.returncode < 0:
        raise InvalidInput(
            f"{program.name} on {machine.name} was stopped by {signal.Signals(-done.returncode).name}",
            hint="compile the model again; if it stops again, report the model",
        )
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise InvalidInput(
            f"{program.name} on {machine.name} ended with {done.returncode}: {said[-1] if said else 'no word'}",
            hint="give it whole samples of the model's input type; `--help` of the program lists them",
        )
    return done.stdout
