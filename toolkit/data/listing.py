"""What lies in a folder of data; hidden files and folders do not count."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from targets.errors import InvalidInput
from toolkit.data.labels import LABELS

__all__ = ["LABELS_FILE", "files_in", "folders_in", "holds"]

LABELS_FILE = f"{LABELS}.npy"


def files_in(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """The samples in a folder: files with one of these endings in any case, sorted by name, labels.npy aside."""
    return [
        folder / name
        for name, is_folder in _entries(folder)
        if not is_folder and Path(name).suffix.lower() in suffixes and name != LABELS_FILE
    ]


def folders_in(folder: Path) -> list[Path]:
    """Its folders, sorted by name."""
    return [folder / name for name, is_folder in _entries(folder) if is_folder]


def holds(folder: Path, suffixes: Collection[str]) -> bool:
    """Whether samples with one of these endings lie in the folder or in one of its folders."""
    return any(files_in(place, suffixes) for place in (folder, *folders_in(folder)))


def _entries(folder: Path) -> list[tuple[str, bool]]:
    try:
        with os.scandir(folder) as entries:
            return sorted((e.name, e.is_dir()) for e in entries if not e.name.startswith("."))
    except OSError as error:
        raise InvalidInput(f"cannot read {folder}: {error.strerror}", hint="check its permissions") from error
