"""A runner in C for machines that have no Python: one small program and onnxruntime's library beside it.

Its sources lie in the folder c_runner/. It takes the options of `toolkit.runner`, and answers in its words.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from importlib.resources import files
from pathlib import Path

from targets.errors import InvalidInput, ToolkitError
from targets.stack import Stack
from targets.target import load_target
from toolkit.backends.ahead_of_time.machines import Machine
from toolkit.bundle.licences import Part, parts, terms
from toolkit.standalone.c_compiler import c_compiler
from toolkit.standalone.onnxruntime_library import onnxruntime_library

__all__ = [
    "FACTS",
    "LIBRARY",
    "PROGRAM",
    "SESSION",
    "TERMS",
    "build",
    "c_runner",
    "linked_session",
    "sources",
    "write_facts",
]

PROGRAM, LIBRARY, FACTS, TERMS = "runner", "libonnxruntime.so", "runner.json", "LICENSES.txt"

SESSION = "session.c"
"""The source that runs the model."""

_FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-O3", "-Wall", "-Wextra")
_LONGEST_S = 300


def c_runner(machine: Machine, folder: Path, *, wheel: Path | None = None) -> Path:
    """Put the runner for processors of `machine`'s architecture into `folder`, with onnxruntime's library.

    Compiled by ziglang's compiler it runs where glibc is 2.28 or later, which is what the library needs anyway; by
    Debian's, where it is as new as the compiler's own.

    Args:
        folder: run/ of a bundle; made where it is not there.
        wheel: Of onnxruntime for that architecture; see `onnxruntime_library`.

    Returns:
        The program.

    Raises:
        MissingDependency: no compiler is installed, or no library of that architecture.
        InvalidInput: the wheel is of no use, or the folder cannot be written.
    """
    library = onnxruntime_library(machine.architecture, wheel)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        program = build(machine, folder)
        (folder / LIBRARY).write_bytes(library.content)
        theirs = Part(name="onnxruntime", version=library.version, licence="MIT", texts=library.terms)
        (folder / TERMS).write_text(terms([*parts("edge-toolkit"), theirs]), "utf-8")
    except OSError as error:
        raise InvalidInput(f"cannot write {folder}: {error.strerror}", hint="choose another folder") from error
    return program


def write_facts(folder: Path, stack: Stack) -> None:
    """runner.json: what a row of measurements says of the stack, as `toolkit.calibration.setting` says it."""
    facts = {
        "stack": stack.id,
        "device": stack.measured_as.get("device") or load_target(stack.target).title,
        "precision": stack.precision,
    }
    (folder / FACTS).write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", "utf-8")


def build(machine: Machine, folder: Path) -> Path:
    """Compile the program for every core of `machine`'s architecture into `folder`.

    Raises:
        MissingDependency: no compiler is installed.
        ToolkitError: the compiler refuses.
    """
    with tempfile.TemporaryDirectory(prefix="toolkit-runner-") as name:
        scratch = Path(name)
        for source, text in sources().items():
            (scratch / source).write_bytes(text)
        names = sorted(path.name for path in scratch.glob("*.c"))
        command = [*c_compiler(machine), *_FLAGS, *names, "-s", "-o", PROGRAM, "-ldl", "-lm"]
        done = subprocess.run(
            command,
            cwd=scratch,
            capture_output=True,
            text=True,
            timeout=_LONGEST_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "error" in line or "undefined" in line]
            raise ToolkitError(
                f"the runner for {machine.architecture}: {lines[0] if lines else done.stderr.strip()[-300:]}",
                hint=f"install the whole cross toolchain: apt-get install {machine.package}",
            )
        shutil.copy(scratch / PROGRAM, folder / PROGRAM)
    return folder / PROGRAM


def sources() -> dict[str, bytes]:
    """The runner's own files, by name."""
    folder = files("toolkit.standalone") / "c_runner"
    return {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.name.endswith((".c", ".h"))}


def linked_session() -> bytes:
    """What takes the place of `SESSION` where the network is linked to the runner."""
    return (files("toolkit.standalone") / "c_runner" / "linked" / SESSION).read_bytes()
