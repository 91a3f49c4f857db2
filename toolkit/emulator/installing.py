"""Make the private root, once: the only step that asks the network. A killed one goes on from what it downloaded."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from targets.errors import InvalidInput, MissingDependency, ToolkitError
from toolkit.backends.ahead_of_time.executing import command
from toolkit.emulator.cores import CORES, Core
from toolkit.emulator.debian import Apt, unpack
from toolkit.emulator.root import FACTS, SCHEMA, Root, home, installed_root
from toolkit.emulator.running import answers_of
from toolkit.emulator.wheels import install_wheels, wanted

__all__ = ["install_root"]

Tell = Callable[[str, float], None]

_PACKAGES = ("python3", "libstdc++6")
_GLIBC = re.compile(r"libc6_2\.(\d+)")
_PYTHON = re.compile(r"python3\.\d+")
_TRIED_ON = next(core for core in CORES if core.name == "Cortex-A72")


def install_root(tell: Tell = lambda step, done: None) -> Root:
    """The root, made where there is none, where it fails, or where its runtimes are not those of this environment.

    Nothing is put in place before a network was answered in it. No package of the system is installed or changed.

    Raises:
        MissingDependency: QEMU, apt or pip is not here, or a source cannot be reached or holds no arm64 packages.
        InvalidInput: the cache folder cannot be written, or a package is damaged.
    """
    command(_TRIED_ON.machine, emulate=True)
    try:
        home().mkdir(parents=True, exist_ok=True)
        with _alone(home()):
            return _whole(tell) or _made(tell)
    except OSError as error:
        raise InvalidInput(
            f"cannot write {error.filename or home()}: {error.strerror}",
            hint="free some space, or set TOOLKIT_CACHE to a folder you may write",
        ) from error


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Waits until no other installation runs; the lock ends with the process."""
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _whole(tell: Tell) -> Root | None:
    """The installed root, if it is the one that this environment wants and answers."""
    try:
        root = installed_root()
        tell("trying the emulator", 0.5)
        if _requested(home() / "arm64") == wanted():
            _try(root, _TRIED_ON)
            return root
    except ToolkitError:
        return None  # it is made again
    return None


def _requested(folder: Path) -> list[str]:
    facts: Mapping[str, Any] = json.loads((folder / FACTS).read_text("utf-8"))
    return list(facts.get("requested", ()))


def _made(tell: Tell) -> Root:
    for left in home().glob(".new-*"):
        shutil.rmtree(left, ignore_errors=True)
    apt = Apt(home() / "downloads")
    with tempfile.TemporaryDirectory(prefix=".new-", dir=home(), ignore_cleanup_errors=True) as name:
        scratch = Path(name, "arm64")
        scratch.mkdir()
        packages = _system(apt, scratch / "system", tell)
        python = _interpreter(scratch / "system")
        tell("runtimes for arm64", 0.4)
        wheels = install_wheels(
            wanted(),
            scratch / "site",
            python=python.name.removeprefix("python"),
            glibc_minor=_glibc_minor(packages),
            report=Path(name, "report.json"),
        )
        facts = {
            "schema": SCHEMA,
            "requested": wanted(),
            "python": str(python.relative_to(scratch / "system")),
            "versions": {"python": python.name.removeprefix("python"), **{n: w["version"] for n, w in wheels.items()}},
            "packages": {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in packages},
            "wheels": wheels,
        }
        (scratch / FACTS).write_text(json.dumps(facts, indent=1) + "\n", "utf-8")
        tell("trying the emulator", 0.85)
        _try(installed_root(scratch), _TRIED_ON)
        _put(scratch, home() / "arm64")
    shutil.rmtree(apt.folder, ignore_errors=True)
    tell("installed", 1.0)
    return installed_root()


def _system(apt: Apt, folder: Path, tell: Tell) -> list[Path]:
    tell("lists of arm64 packages", 0.0)
    apt.update()
    tell("arm64 packages", 0.1)
    packages = apt.fetch(_PACKAGES, lambda done: tell("arm64 packages", 0.1 + 0.1 * done))
    unpack(packages, folder, lambda done: tell("unpacking", 0.2 + 0.2 * done))
    return packages


def _interpreter(system: Path) -> Path:
    found = [path for path in sorted((system / "usr" / "bin").iterdir()) if _PYTHON.fullmatch(path.name)]
    if not found:
        raise MissingDependency("apt's sources hold no Python for arm64", hint="name another source in /etc/apt")
    return found[-1]


def _glibc_minor(packages: list[Path]) -> int:
    found = [match for match in (_GLIBC.match(file.name) for file in packages) if match]
    return int(found[0][1]) if found else 28


def _put(scratch: Path, target: Path) -> None:
    """In place of what is there; a kill between the two renames leaves no root, and a run that makes it again."""
    if target.exists():
        os.replace(target, scratch.with_name("old"))
    os.replace(scratch, target)


def _try(root: Root, core: Core) -> None:
    """One addition in onnxruntime on the emulated core.

    Raises:
        InvalidInput: it fails, or its answer is wrong.
    """
    import onnx.parser

    text = '<ir_version: 8, opset_import: ["" : 13]> g (float[2] x) => (float[2] y) { y = Add(x, x) }'
    x = np.array([1.5, -2.0], np.float32)
    model = onnx.parser.parse_model(text).SerializeToString()
    got = answers_of("onnxruntime", model, [{"x": x}], core, 4, root=root).answers[0]["y"]
    if not np.array_equal(got, x + x):
        raise InvalidInput(f"the emulated {core.name} computes {x} + {x} = {got}", hint="install another QEMU")
