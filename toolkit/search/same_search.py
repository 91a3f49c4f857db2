"""What a search is, written beside what it learnt, so that only the same one goes on there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from toolkit.errors import ArchiveFormatError
from toolkit.search.archive import CVTArchive
from toolkit.search.config_space import ConfigSpace
from toolkit.search.search_settings import Settings

__all__ = ["check_same", "description", "difference"]

_FILE = "search.json"
_TOLD_FIRST, _TOLD_LAST = ("seed", "context"), ("space", "archive")
"""What the user chose; and what follows from all else, which says least of why a search is another one."""
_SHOWN = 60


def description(space: ConfigSpace, archive: CVTArchive, settings: Settings, emitters: Sequence[str]) -> dict[str, Any]:
    """All that a search must have in common with the one it resumes, as JSON.

    Args:
        emitters: Their names.
    """
    said = {name: value for name, value in asdict(settings).items() if name != "timeout_s"}
    cells = {"space": archive.space.digest, "centroids": archive.cells.digest} | archive.rules
    document = {"format": "edge-toolkit search 1", "space": space.describe(), "archive": cells,
                "emitters": list(emitters), **said}  # fmt: skip
    plain: dict[str, Any] = json.loads(json.dumps(document))
    return plain


def check_same(folder: Path, here: Mapping[str, Any]) -> None:
    """Write what a search is, or find that the one in this folder is the same.

    Raises:
        ArchiveFormatError: it is another one.
    """
    path = folder / _FILE
    if not path.exists():
        beside = path.with_suffix(".new")
        with beside.open("w", encoding="utf-8") as file:
            file.write(json.dumps(here, indent=1) + "\n")
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        return
    try:
        there = json.loads(path.read_text("utf-8"))
        ordered = sorted(here, key=lambda name: (name in _TOLD_LAST, name not in _TOLD_FIRST))
        told = [difference(name, there.get(name), here[name]) for name in ordered if there.get(name) != here[name]]
    except (ValueError, AttributeError) as error:
        raise ArchiveFormatError(f"{path} cannot be read: {error}", hint="take the search from a copy") from error
    if told:
        raise ArchiveFormatError(
            f"{folder} holds another search: {told[0]}", hint="resume it as it began, or name a new folder"
        )


def difference(name: str, was: object, now: object) -> str:
    """In words why a search is another one; of a context that is a mapping in JSON, its first part that differs."""
    if name == "context":
        before, after = (_mapping(value) for value in (was, now))
        name, was, now = next(
            ((part, before.get(part), value) for part, value in after.items() if before.get(part) != value),
            (name, None, None),
        )
    if was is None or max(len(json.dumps(value)) for value in (was, now)) > _SHOWN:
        return f"its {name} differs"
    return f"its {name} differs: it was {json.dumps(was)}, and is {json.dumps(now)}"


def _mapping(text: object) -> Mapping[str, Any]:
    try:
        found = json.loads(str(text))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
