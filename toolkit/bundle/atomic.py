"""Put a folder in place whole or not at all."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from targets.errors import InvalidInput

__all__ = ["replacing_folder"]


@contextmanager
def replacing_folder(target: Path, *, marker: str, force: bool = False) -> Iterator[Path]:
    """A scratch folder beside `target` that takes its place when the block ends well.

    A folder that is already there is replaced when it holds `marker` (it is one of ours), is empty, or `force` is set.
    Until the very end the old one stays as it was. What a killed process left beside it is put right first: its
    scratch folder goes, and an old folder that it had moved away, but not replaced, comes back.

    Raises:
        InvalidInput: `target` is something else, or cannot be written.
    """
    target = Path(os.path.realpath(target))  # a link to a bundle is written through
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _tidy(target)
        _check_replaceable(target, marker, force)
        scratch = Path(tempfile.mkdtemp(prefix=_prefix(target), dir=target.parent))
    except OSError as error:
        raise InvalidInput(
            f"cannot write {target}: {error.strerror}", hint="choose a folder you may write with --output"
        ) from error
    try:
        with _held(scratch):
            scratch.chmod(0o755)
            yield scratch
            _swap(scratch, target)
    except OSError as error:
        what = error.filename or target
        raise InvalidInput(
            f"cannot write {what}: {error.strerror}", hint="free some space, or choose another folder"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _check_replaceable(target: Path, marker: str, force: bool) -> None:
    if target.exists() and not force and not _ours(target, marker):
        raise InvalidInput(
            f"{target} exists and is not a bundle", hint="choose another --output, or replace it with --force"
        )


def _ours(target: Path, marker: str) -> bool:
    return target.is_dir() and ((target / marker).is_file() or not any(target.iterdir()))


def _swap(scratch: Path, target: Path) -> None:
    for path in sorted(scratch.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    old = _old(scratch)
    if not target.exists():
        os.replace(scratch, target)
        return
    with _held(target):
        os.replace(target, old)
        os.replace(scratch, target)
    if old.is_dir():
        shutil.rmtree(old, ignore_errors=True)
    else:
        old.unlink()


def _old(scratch: Path) -> Path:
    """Where the folder that `scratch` replaces is kept for the moment between two renames."""
    return scratch.with_name(f"{scratch.name}.old")


# ---- after a kill


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Holds a lock on `folder` itself, which follows it through renames and ends with the process."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def _tidy(target: Path) -> None:
    """Remove the scratch folders for `target` that nobody holds; put back an old one that was not yet replaced."""
    scratch = re.compile(re.escape(_prefix(target)) + r"[a-z0-9_]{8}(\.old)?")
    for left in sorted(path for path in target.parent.iterdir() if scratch.fullmatch(path.name)):
        with suppress(OSError):  # held by a compile that runs, or just removed by one
            handle = os.open(left, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if left.suffix == ".old" and not target.exists():
                    os.replace(left, target)
                elif left.is_dir():
                    shutil.rmtree(left, ignore_errors=True)
                else:
                    left.unlink()
            finally:
                os.close(handle)


def _prefix(target: Path) -> str:
    return f".{target.name}.toolkit-"
