"""A folder whose search was broken off, told from one that never held any."""

from __future__ import annotations

from pathlib import Path

from targets.errors import InvalidInput
from toolkit.search.atlas.sealing import ATLAS

__all__ = ["unfinished"]

_BEGUN = "search.json"


def unfinished(folder: Path) -> InvalidInput | None:
    """What to say of the folder of a search, or of one of its targets, that has no atlas yet; None of any other."""
    begun = (folder / _BEGUN).is_file() or any(folder.glob(f"*/{_BEGUN}"))
    if not begun or (folder / ATLAS).is_file() or (folder.parent / ATLAS).is_file():
        return None
    return InvalidInput(
        f"the search in {folder} has not ended, so there is no atlas yet",
        hint="wait for it; or run its `toolkit search` again, which goes on from what was finished",
    )
