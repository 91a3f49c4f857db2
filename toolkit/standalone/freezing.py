"""Freeze a program with PyInstaller, once for a version of everything in it; it is kept under the cache folder."""

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
from toolkit.cache import cache_folder
from toolkit.standalone.frozen import RUNNER

__all__ = ["frozen_runner"]

_PARTS = ("numpy", "onnxruntime", "pillow", "pyinstaller")
_OURS = ("passes", "targets", "toolkit")
_LONGEST_S = 600
_EXPECTED_LINES = 90
"""PyInstaller tells a line a step; how far it is follows from that."""

_SPEC = "from toolkit.standalone.frozen import RUNNER\n\nRUNNER.build()\n"
"""As in packaging/, which an installation does not have."""


def frozen_runner(progress: Callable[[str, float], None] = lambda step, done: None) -> Path:
    """The runner for this machine's system and processor, as one executable file; made where it is not yet kept.

    Raises:
        MissingDependency: PyInstaller is not installed, or cannot freeze this Python.
        InvalidInput: the cache folder cannot be written.
    """
    if find_spec("PyInstaller") is None:
        raise MissingDependency(
            "programs are frozen with PyInstaller, which is not installed", hint="pip install 'edge-toolkit[package]'"
        )
    folder = cache_folder() / "standalone"
    kept = folder / _key() / f"{RUNNER.name}{'.exe' if os.name == 'nt' else ''}"
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


def _key() -> str:
    """SHA-256 of what decides the program's bytes."""
    state = hashlib.sha256(f"{sys.version}|{platform.machine()}|{_SPEC}".encode())
    for name in _PARTS:
        try:
            state.update(f"|{name}={version(name)}".encode())
        except PackageNotFoundError:
            state.update(f"|{name} absent".encode())
    for package in _OURS:
        spec = find_spec(package)
        for root in map(Path, (spec.submodule_search_locations or []) if spec else []):
            for path in sorted(p for p in root.rglob("*") if p.suffix in (".py", ".toml", ".json")):
                state.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return state.hexdigest()


def _freeze(target: Path, progress: Callable[[str, float], None]) -> None:
    """Build in a scratch folder; what is there in the end is whole."""
    with tempfile.TemporaryDirectory(prefix=".new-", dir=target.parent.parent, ignore_cleanup_errors=True) as name:
        scratch = Path(name)
        spec = scratch / "runner.spec"
        spec.write_text(_SPEC, "utf-8")
        _pyinstaller(spec, scratch, progress)
        made = scratch / "dist" / target.name
        made.chmod(0o755)
        for old in target.parent.parent.glob("[0-9a-f]*"):
            shutil.rmtree(old, ignore_errors=True)
        target.parent.mkdir()
        os.replace(made, target)


def _pyinstaller(spec: Path, scratch: Path, progress: Callable[[str, float], None]) -> None:
    """Fixed seeds for hashes and dates: the same parts give the same bytes."""
    command = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--distpath", str(scratch / "dist"),
               "--workpath", str(scratch / "work"), str(spec)]  # fmt: skip
    environment = {**os.environ, "PYTHONHASHSEED": "0", "SOURCE_DATE_EPOCH": "315619200", "PYINSTALLER_CONFIG_DIR": str(
        scratch / "configuration")}  # fmt: skip
    said: list[str] = []
    with subprocess.Popen(
        command, cwd=scratch, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            said.append(line.strip())
            progress("freezing the runner", min(0.99, len(said) / _EXPECTED_LINES))
        code = process.wait(_LONGEST_S)
    if code:
        why = next((line for line in reversed(said) if "rror" in line), said[-1] if said else f"code {code}")
        kind = MissingDependency if "library" in why else ToolkitError
        raise kind(
            f"PyInstaller failed: {why[-300:]}",
            hint="use a Python with a shared library (Debian's, or one configured with --enable-shared)",
        )
