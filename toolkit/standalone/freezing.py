"""Freeze a program with PyInstaller. The runner is made once for a version of everything in it, and kept."""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from targets.errors import InvalidInput, MissingDependency, ToolkitError
from toolkit.bundle.atomic import replacing_folder
from toolkit.cache import cache_folder
from toolkit.standalone.c_compiler import c_compiler, host_machine
from toolkit.standalone.frozen import CLI, RUNNER, Frozen
from toolkit.standalone.one_file import one_file

__all__ = ["freeze_cli", "frozen_runner"]

_PARTS = ("numpy", "onnxruntime", "pillow", "pyinstaller", "ziglang")
_OURS = ("passes", "targets", "toolkit")
_LONGEST_S = 3600
_Tell = Callable[[str, float], None]


def _spec(program: Frozen) -> str:
    """As in packaging/, which an installation does not have."""
    name = program.variable
    return f"from toolkit.standalone.frozen import {name}\n\n{name}.build()\n"


def frozen_runner(progress: _Tell = lambda step, done: None) -> Path:
    """The runner for this machine's system and processor, as one executable file; made where it is not yet kept.

    Raises:
        MissingDependency: PyInstaller or a C compiler is not installed, or it cannot freeze this Python.
        InvalidInput: the cache folder cannot be written.
    """
    _need_pyinstaller()
    if not RUNNER.one_file:
        c_compiler(host_machine())
    folder = cache_folder() / "standalone"
    kept = folder / _key() / RUNNER.file
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not kept.is_file():
                _freeze(kept, progress)
    except OSError as error:
        raise InvalidInput(
            f"cannot write {error.filename or folder}: {error.strerror}",
            hint="free some space, or set TOOLKIT_CACHE to a folder you may write",
        ) from error
    return kept


def freeze_cli(folder: Path, progress: _Tell = lambda step, done: None) -> Path:
    """The whole command line as `folder`, put in place when it is complete. Returns its executable.

    Raises:
        MissingDependency: PyInstaller is not installed, or cannot freeze this Python.
        InvalidInput: `folder` is something else, or cannot be written.
    """
    _need_pyinstaller()
    with (
        replacing_folder(folder, marker=CLI.file) as scratch,
        tempfile.TemporaryDirectory(prefix=".new-", dir=scratch.parent, ignore_cleanup_errors=True) as name,
    ):
        made = _pyinstaller(CLI, Path(name), progress)
        scratch.rmdir()
        os.replace(made, scratch)
    return folder / CLI.file


def _need_pyinstaller() -> None:
    if find_spec("PyInstaller") is None:
        raise MissingDependency(
            "programs are frozen with PyInstaller, which is not installed", hint="pip install 'edge-toolkit[package]'"
        )


def _key() -> str:
    """SHA-256 of what decides the program's bytes."""
    state = hashlib.sha256(f"{sys.version}|{platform.machine()}|{_spec(RUNNER)}".encode())
    for name in _PARTS:
        try:
            state.update(f"|{name}={version(name)}".encode())
        except PackageNotFoundError:
            state.update(f"|{name} absent".encode())
    for package in _OURS:
        spec = find_spec(package)
        for root in map(Path, (spec.submodule_search_locations or []) if spec else []):
            for path in sorted(p for p in root.rglob("*") if p.suffix in (".py", ".toml", ".json", ".c", ".h")):
                state.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return state.hexdigest()


def _freeze(target: Path, progress: _Tell) -> None:
    """Build in a scratch folder; what is there in the end is whole. Runners of other versions go."""
    folder = target.parent.parent
    with tempfile.TemporaryDirectory(prefix=".new-", dir=folder, ignore_cleanup_errors=True) as name:
        made = _pyinstaller(RUNNER, Path(name), progress)
        if not RUNNER.one_file:
            made = one_file(
                made, RUNNER.file, Path(name, "packed"), lambda share: progress(f"packing {RUNNER.name}", share)
            )
        made.chmod(0o755)
        for old in folder.glob("[0-9a-f]*"):
            shutil.rmtree(old, ignore_errors=True)
        target.parent.mkdir()
        os.replace(made, target)


def _pyinstaller(program: Frozen, scratch: Path, progress: _Tell) -> Path:
    """What it makes in `scratch`: a file, or a folder. With fixed seeds for hashes and dates, equal parts give equal
    bytes.
    """
    spec = scratch / "program.spec"
    spec.write_text(_spec(program), "utf-8")
    command = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--distpath", str(scratch / "dist"),
               "--workpath", str(scratch / "work"), str(spec)]  # fmt: skip
    seeds = {"PYTHONHASHSEED": "0", "SOURCE_DATE_EPOCH": "315619200"}
    environment = {**os.environ, **seeds, "PYINSTALLER_CONFIG_DIR": str(scratch / "configuration")}
    said: list[str] = []
    with subprocess.Popen(
        command, cwd=scratch, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            said.append(line.strip())
            progress(f"freezing {program.name}", min(0.99, len(said) / program.steps))
        code = process.wait(_LONGEST_S)
    if code:
        why = next((line for line in reversed(said) if "rror" in line), said[-1] if said else f"code {code}")
        kind = MissingDependency if "library" in why else ToolkitError
        raise kind(
            f"PyInstaller failed: {why[-300:]}",
            hint="use a Python with a shared library (Debian's, or one configured with --enable-shared)",
        )
    return scratch / "dist" / (program.file if program.one_file else program.name)
