"""C and objects become a program: the machine's own compiler, Debian's cross compiler, or the one of ziglang."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from targets.errors import MissingDependency, ToolkitError
from toolkit.backends.ahead_of_time.machines import Machine

__all__ = ["compiler", "compiler_version", "link"]

_FLAGS = ("-std=c99", "-O3", "-Wall", "-Wextra", "-ffunction-sections")
_LINK = ("-static", "-Wl,--gc-sections", "-s")
_LONGEST_S = 900


def compiler(machine: Machine) -> tuple[str, ...]:
    """The command that compiles C for `machine`, with the flags that choose its core.

    Raises:
        MissingDependency: none is installed.
    """
    native = platform.machine() == machine.architecture
    for name in (machine.cross_compiler, *(("gcc", "clang") if native else ())):
        if found := shutil.which(name):
            return (found, *machine.c_flags)
    if find_spec("ziglang"):
        return (sys.executable, "-m", "ziglang", "cc", "-target", machine.zig, f"-mcpu={machine.cpu.replace('-', '_')}")
    raise MissingDependency(
        f"no C compiler for {machine.name}",
        hint=f"apt-get install {machine.package}, or pip install 'edge-toolkit[package]' for the one of ziglang",
    )


def compiler_version(machine: Machine) -> str:
    """What the compiler for `machine` says it is: with TVM's version it decides the bytes of a program.

    Raises:
        MissingDependency: none is installed.
    """
    words = [*(word for word in compiler(machine) if not word.startswith(("-mcpu", "-mf", "-march"))), "--version"]
    said = subprocess.run(words, capture_output=True, text=True, timeout=_LONGEST_S, check=False).stdout
    return said.splitlines()[0] if said else "unknown"


def link(folder: Path, files: Sequence[str], machine: Machine, program: str, *, flags: Sequence[str] = ()) -> Path:
    """Compile and link `files` of `folder` into a static executable of that name beside them.

    Args:
        flags: More of the compiler's; they come after our own.

    Raises:
        MissingDependency: no compiler is installed.
        ToolkitError: the compiler refuses.
    """
    command = [*compiler(machine), *_FLAGS, *flags, *files, *_LINK, "-o", program, "-lm"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_LONGEST_S, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line or "undefined" in line]
        raise ToolkitError(
            f"{Path(command[0]).name} for {machine.name}: {lines[0] if lines else done.stderr.strip()[-300:]}",
            hint=f"install the whole cross toolchain: apt-get install {machine.package}",
        )
    return folder / program
