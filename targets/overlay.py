"""A user's own calibrations: fits that lie over those of the profiles, one file a target in the configuration folder.

`toolkit calibrate` writes them. A file is read once in a process, so that a fit does not change under a compile.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from targets.coefficients import document_of, dumps
from targets.errors import InvalidInput
from targets.latency import LatencyFit

__all__ = ["CALIBRATION", "COUNTED", "config_folder", "forget", "is_current", "keep", "own_fits"]

CALIBRATION, COUNTED = "calibration", "counted"
"""Kinds of fits, and their folders, here and among what is shipped: to times, and to counts of instructions."""

_COUNTING = ("graph.py", "grouping.py", "latency.py", "operators.py", "workload.py")
"""The code that counts the work which a cost is for: a fit made with another version of it means something else."""


def config_folder() -> Path:
    """TOOLKIT_CONFIG, else edge-toolkit under the user's configuration folder."""
    if stated := os.environ.get("TOOLKIT_CONFIG"):
        return Path(stated)
    if stated := os.environ.get("XDG_CONFIG_HOME"):
        return Path(stated) / "edge-toolkit"
    try:
        return Path.home() / ".config" / "edge-toolkit"
    except RuntimeError as error:  # no HOME, and a user that the system does not know
        raise InvalidInput(
            "there is no home folder to keep calibrations in", hint="set HOME, or TOOLKIT_CONFIG to a folder"
        ) from error


@cache
def own_fits(target: str, kind: str = CALIBRATION) -> Mapping[str, Any]:
    """What the user calibrated on `target`, by stack: `stack` (fields of it that differ), `latency`, `version`.

    Raises:
        InvalidInput: the file is damaged.
    """
    try:
        path = _path(target, kind)
    except InvalidInput:  # there is no home folder, so nothing was kept in it
        return {}
    try:
        text = path.read_text("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise InvalidInput(f"cannot read your calibrations {path}: {error}", hint=_remove(path)) from error
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InvalidInput(f"your calibrations {path} are damaged: {error}", hint=_remove(path)) from error
    if not isinstance(found, dict) or not all(isinstance(entry, dict) for entry in found.values()):
        raise InvalidInput(f"your calibrations {path} are damaged: not an object of objects", hint=_remove(path))
    return found


def is_current(entry: Mapping[str, Any]) -> bool:
    """Whether a calibration was made with this version of the latency model."""
    return entry.get("version") == _version()


def keep(target: str, stack: str, latency: LatencyFit, fields: Mapping[str, Any], kind: str = CALIBRATION) -> Path:
    """Write a calibration over that of `stack`. `fields` are those of the stack that are otherwise than in the profile.

    Raises:
        InvalidInput: the folder cannot be written.
    """
    entry = {"version": _version(), "stack": dict(fields), "latency": document_of(latency)}
    return _write(target, kind, {**_read_again(target, kind), stack: entry})


def forget(target: str, stack: str, kind: str = CALIBRATION) -> bool:
    """Drop the calibration of `stack`; False where there is none."""
    kept = dict(_read_again(target, kind))
    if stack not in kept:
        return False
    del kept[stack]
    _write(target, kind, kept)
    return True


def _path(target: str, kind: str) -> Path:
    return config_folder() / kind / f"{target}.json"


def _remove(path: Path) -> str:
    return f"remove {path.name} there, and repeat `toolkit calibrate`"


def _read_again(target: str, kind: str) -> Mapping[str, Any]:
    own_fits.cache_clear()
    return own_fits(target, kind)


def _write(target: str, kind: str, entries: Mapping[str, Any]) -> Path:
    """The whole file or the one before; without entries, no file."""
    path = _path(target, kind)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if entries:
            with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as scratch:
                scratch.write(dumps(entries))
            os.replace(scratch.name, path)
        else:
            path.unlink()
    except OSError as error:
        raise InvalidInput(
            f"cannot write {path}: {error.strerror}", hint="set TOOLKIT_CONFIG to a folder you may write"
        ) from error
    own_fits.cache_clear()
    return path


@cache
def _version() -> str:
    found = hashlib.sha256()
    for name in _COUNTING:
        source = files("targets").joinpath(name)
        found.update(source.read_bytes() if source.is_file() else b"")
    return found.hexdigest()[:16]
