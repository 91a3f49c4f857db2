"""A compiler of C for a processor's architecture under Linux, whose programs run on systems older than this one."""

from __future__ import annotations

import platform
import shutil
import sys
from importlib.util import find_spec

from targets.errors import MissingDependency
from toolkit.backends.ahead_of_time.machines import MACHINES, Machine

__all__ = ["GLIBC", "c_compiler", "host_machine"]

GLIBC = "2.28"
"""What onnxruntime's wheels need. Source: their platform tag, manylinux_2_28, of PEP 600."""


def c_compiler(machine: Machine) -> tuple[str, ...]:
    """The beginning of its command. ziglang's first: it links against an old glibc.

    Raises:
        MissingDependency: there is none.
    """
    if find_spec("ziglang"):
        triple = f"{machine.zig.replace('musl', 'gnu')}.{GLIBC}"
        return (sys.executable, "-m", "ziglang", "cc", "-target", triple)
    native = platform.machine() == machine.architecture
    for name in (machine.cross_compiler, *(("gcc", "clang") if native else ())):
        if found := shutil.which(name):
            return (found,)
    raise MissingDependency(
        f"no C compiler for {machine.architecture}",
        hint=f"pip install 'edge-toolkit[package]' for the one of ziglang, or apt-get install {machine.package}",
    )


def host_machine() -> Machine:
    """A processor of this machine's architecture.

    Raises:
        MissingDependency: none that programs are compiled for.
    """
    for machine in MACHINES.values():
        if machine.architecture == platform.machine():
            return machine
    raise MissingDependency(
        f"programs are not compiled for {platform.machine()}", hint="use x86-64 or 64-bit Arm for this"
    )
