"""Put the runner for a stack's device into a bundle: run/, with the terms under which its parts may be passed on.

A device of this machine's kind gets the frozen runner, one file; another processor gets the one in C.
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable
from pathlib import Path

from passes.program import Program
from targets.errors import MissingDependency
from targets.stack import Stack
from targets.target import Target, load_target
from toolkit.backends.ahead_of_time.machines import MACHINES, Machine
from toolkit.bundle.licences import Part, openssl, parts, python, terms
from toolkit.emulator.cores import core_of
from toolkit.standalone.c_compiler import GLIBC
from toolkit.standalone.c_runner import TERMS, c_runner, write_facts
from toolkit.standalone.freezing import frozen_runner
from toolkit.standalone.linked_runner import linked_runner

__all__ = ["machine_of", "makes_programs", "put_linked_runner", "put_runner"]

_FROZEN = ("edge-toolkit", "numpy", "onnxruntime", "pillow", "pyinstaller")
_IN_C = ("edge-toolkit", "onnxruntime")
_LINKED = ("edge-toolkit",)


def put_runner(
    bundle: Path, stack: Stack, progress: Callable[[str, float], None] = lambda step, done: None
) -> list[Part]:
    """Make the runner, and put it into run/ of the folder of a bundle that is being made. Returns what is inside it.

    A stack that makes programs gets none here, since its runner holds the network: see `put_linked_runner`.

    Raises:
        MissingDependency: PyInstaller, a compiler or a library is not here.
        InvalidInput: a folder cannot be written.
    """
    if makes_programs(stack):
        return []
    target = load_target(stack.target)
    machine = machine_of(target)
    folder = bundle / "run"
    if machine.architecture != platform.machine():
        _check_library(target)
        progress("compiling the runner", 0.0)
        c_runner(machine, folder)
        write_facts(folder, stack)
        return parts(*_IN_C)
    program, inside = frozen_runner(progress), [python(), openssl(), *parts(*_FROZEN)]
    folder.mkdir()
    shutil.copy(program, folder / program.name)
    (folder / TERMS).write_text(terms(inside), "utf-8")
    return inside


def makes_programs(stack: Stack) -> bool:
    """Whether what the stack makes needs nothing on the device to run it."""
    return stack.artifact == "executable"


def put_linked_runner(bundle: Path, program: Program, stack: Stack) -> list[Part]:
    """The same for a stack that makes programs: the network with a command line around it, in one static file.

    Raises:
        MissingDependency: TVM or a compiler is not here.
    """
    folder = bundle / "run"
    inside = parts(*_LINKED)
    linked_runner(program, MACHINES[stack.machine], folder, runtime=stack.runtime)
    write_facts(folder, stack)
    (folder / TERMS).write_text(terms(inside), "utf-8")
    return inside


def _check_library(target: Target) -> None:
    have = str(target.parameters.get("glibc", GLIBC))
    if tuple(map(int, have.split("."))) < tuple(map(int, GLIBC.split("."))):
        raise MissingDependency(
            f"onnxruntime's library needs glibc {GLIBC}, the system of {target.title} has {have}",
            hint=f"compile for a stack that makes a program without dependencies: toolkit targets {target.name}",
        )


def machine_of(target: Target) -> Machine:
    """The processor that a bundle runs on: the board's own, or a host like this one beside a card that has none."""
    try:
        return core_of(target).machine
    except MissingDependency:  # a board's core that QEMU does not know, all of them Arm's; or a card's profile
        architecture = "aarch64" if "cpu" in target.parameters else platform.machine()
        return next(machine for machine in MACHINES.values() if machine.architecture == architecture)
