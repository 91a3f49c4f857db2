"""Every file of a bundle is the one that was written: names and SHA-256 in the manifest, held against the folder."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from targets.errors import InvalidInput
from toolkit.bundle.layout import MANIFEST, SIGNATURE, TIMINGS

__all__ = ["check_hashes", "hashes_of"]

_UNLISTED = frozenset({MANIFEST, SIGNATURE, TIMINGS})
"""The manifest holds the hashes, and is signed; timings differ between equal compiles."""


def check_hashes(folder: Path, sha256: Mapping[str, str], *, needed: Iterable[str], trusted: str = "") -> None:
    """Every file is listed, is there, and is the one that was written.

    Args:
        sha256: What the manifest says, by name below `folder`.
        needed: Files that it must list.
        trusted: Beginning of the names of files that need not be read: a program does not check itself.

    Raises:
        InvalidInput: naming the file that is not as it was.
    """
    for name, want in sha256.items():
        if trusted and name.startswith(trusted):
            continue
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise InvalidInput(f"the manifest names a file outside the bundle: {name}", hint="do not use this bundle")
        file = folder / name
        if not file.is_file():
            raise InvalidInput(f"{file} is missing", hint="copy the bundle again, or compile again")
        if _hash(file) != want:
            raise InvalidInput(
                f"{file} is not the file that was written: its hash differs",
                hint="copy the bundle again, or compile again",
            )
    for name in needed:
        if name not in sha256:
            raise InvalidInput(f"the manifest holds no hash of {name}", hint="do not use this bundle; compile again")
    if strangers := [name for name in _files(folder) if name not in sha256]:
        raise InvalidInput(
            f"{folder / strangers[0]} was not written by the compile", hint="remove it, or compile again"
        )


def hashes_of(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a bundle but those that it does not list."""
    return {name: _hash(folder / name) for name in _files(folder)}


def _files(folder: Path) -> list[str]:
    found = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    return sorted(name.as_posix() for name in found if name.name not in _UNLISTED)


def _hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
