"""Put a folder in place whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from targets.errors import InvalidInput

__all__ = ["replacing_folder"]


@contextmanager
def replacing_folder(target: Path, *, marker: str, force: bool = False) -> Iterator[Path]:
    """A scratch folder beside `target` that takes its place when the block ends well.

    A folder that is already there is replaced when it holds `marker` (it is one of ours), is empty, or `force` is set.
    Until the very end the old one stays as it was; a crash leaves it, or at worst nothing, never a mixture.

    Raises:
        InvalidInput: `target` is something else, or cannot be written.
    """
    target = Path(os.path.realpath(target))  # a link to a bundle is written through
    if target.exists() and not force and not _ours(target, marker):
        raise InvalidInput(
            f"{target} exists and is not a bundle", hint="choose another --output, or replace it with --force"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise InvalidInput(
            f"cannot write {target}: {error.strerror}", hint="choose a folder you may write with --output"
        ) from error
    try:
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


def _ours(target: Path, marker: str) -> bool:
    return target.is_dir() and ((target / marker).is_file() or not any(target.iterdir()))


def _swap(scratch: Path, target: Path) -> None:
    for path in sorted(scratch.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    old = scratch.with_name(scratch.name + ".old")
    if target.exists():
        os.replace(target, old)
    os.replace(scratch, target)
    if old.is_dir():
        shutil.rmtree(old, ignore_errors=True)
    elif old.exists():
        old.unlink()
