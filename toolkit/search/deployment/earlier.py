"""The atlas that lies in a folder already: its other targets stay, and that of another model is not written over."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolkit.errors import ArchiveFormatError, InvalidInput
from toolkit.search.deployment.atlas_file import read_atlas
from toolkit.search.same_search import difference

__all__ = ["beside", "check_goes_into", "earlier_atlas"]


def earlier_atlas(folder: Path) -> Mapping[str, Any] | None:
    """What an earlier search wrote; None where nothing is, or nothing that can be read, which is written anew."""
    try:
        return read_atlas(folder)
    except (InvalidInput, OSError, ValueError, KeyError):
        return None


def check_goes_into(earlier: Mapping[str, Any] | None, now: Mapping[str, Any], folder: Path) -> None:
    """Refuse a folder whose atlas would not be one with what is searched now.

    Args:
        now: Fields of atlas.json that all its targets share; wherever the model lies now, it is known by its digest.

    Raises:
        ArchiveFormatError: one of them differs.
    """
    if earlier is None:
        return
    for name, (was, is_now) in _compared(earlier, now).items():
        if was != is_now:
            raise ArchiveFormatError(
                f"{folder} holds the atlas of another search: {difference(name, was, is_now)}",
                hint="name another folder with --output, or remove this one",
            )


def _compared(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    digests = {name: (earlier[name]["digest"], now[name]["digest"]) for name in ("model", "data")}
    return {**digests, "seed": (earlier["seed"], now["seed"]), "limit": (earlier["limits"], now["limits"])}


def beside(document: Mapping[str, Any], earlier: Mapping[str, Any] | None) -> dict[str, Any]:
    """`document` and, in front of what it says, the targets of `earlier` that it says nothing of."""
    if earlier is None:
        return dict(document)
    others = {name: told for name, told in earlier["targets"].items() if name not in document["targets"]}
    points = [point for point in earlier["points"] if point["target"] in others]
    return {**document, "targets": {**others, **document["targets"]}, "points": [*points, *document["points"]]}
