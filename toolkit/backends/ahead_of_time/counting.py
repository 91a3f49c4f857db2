"""Instructions that a program executes on an emulated processor, by kind: a plugin of QEMU's user mode counts them.

The numbers are the same on every run. They say how much a processor has to do, not how long it takes.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from importlib.resources import files
from pathlib import Path

from targets.errors import MissingDependency
from toolkit.backends.ahead_of_time.executing import run
from toolkit.backends.ahead_of_time.machines import Machine

__all__ = ["Counter", "Instructions", "count_instructions", "counter"]


@dataclass(frozen=True, kw_only=True)
class Instructions:
    """Executed instructions: loads and stores, branches, integer arithmetic, floating point and vectors.

    Kinds are told apart on 64-bit ARM alone; elsewhere every instruction is `other`.
    """

    memory: int
    branch: int
    integer: int
    vector: int
    other: int

    def __sub__(self, other: Instructions) -> Instructions:
        return Instructions(**{f.name: getattr(self, f.name) - getattr(other, f.name) for f in fields(self)})

    @property
    def total(self) -> int:
        return self.memory + self.branch + self.integer + self.vector + self.other


@dataclass(frozen=True)
class Counter:
    """An emulator that counts: `before` goes before a program, and `read` tells what was counted."""

    before: tuple[str, ...]
    _said: Path

    def read(self) -> list[Instructions]:
        """Since the start of the process: at each marked system call, and at its end."""
        lines = [line.split() for line in self._said.read_text().splitlines()]
        kinds = len(fields(Instructions))
        blocks = [lines[i : i + kinds] for i in range(0, len(lines), kinds)]
        return [Instructions(**{kind: int(count) for kind, count in block}) for block in blocks]


@contextmanager
def counter(machine: Machine, *, mark: int | None = None) -> Iterator[Counter]:
    """Counts on `machine`; with `mark`, also whenever a program makes the system call of that number.

    Raises:
        MissingDependency: QEMU's dynamically linked user mode or a C compiler is not installed, or QEMU is too new.
    """
    emulator = shutil.which(machine.emulator.removesuffix("-static"))
    compiler = shutil.which("gcc") or shutil.which("cc")
    if not emulator or not compiler:
        raise MissingDependency(
            f"instructions of {machine.name} cannot be counted without {'QEMU' if not emulator else 'a C compiler'}",
            hint="apt-get install qemu-user gcc (the static QEMU loads no plugins)",
        )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, plugin, said = folder / "counting.c", folder / "counting.so", folder / "said.txt"
        source.write_bytes((files(__package__) / "c" / "counting.c").read_bytes())
        subprocess.run([compiler, "-std=c99", "-O2", "-shared", "-fPIC", source, "-o", plugin], check=True)
        asked = str(plugin) if mark is None else f"{plugin},mark={mark}"
        _check_loads(emulator, plugin)
        options = ("-cpu", machine.emulated_cpu, "-plugin", asked, "-d", "plugin", "-D", str(said))
        yield Counter((emulator, *options), said)


def _check_loads(emulator: str, plugin: Path) -> None:
    """QEMU looks at plugins before it looks for the program, here an empty name."""
    done = subprocess.run([emulator, "-plugin", plugin, ""], capture_output=True, text=True, check=False)
    if "plugin" in done.stderr:
        raise MissingDependency(
            f"this QEMU does not take the counting plugin: {done.stderr.splitlines()[0].rpartition(': ')[2]}",
            hint="count with a QEMU before 9, whose plugins have version 1",
        )


def count_instructions(program: Path, machine: Machine, given: bytes) -> Instructions:
    """What the whole process executes for `given` on standard input, from its start to its end.

    Raises:
        MissingDependency: QEMU's dynamically linked user mode or a C compiler is not installed.
        InvalidInput: the program failed.
    """
    with counter(machine) as counting:
        run(counting.before, program, machine, given)
        return counting.read()[-1]
