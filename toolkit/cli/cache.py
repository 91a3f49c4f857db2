"""toolkit cache"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from targets.errors import UsageError
from toolkit.cli.app import app
from toolkit.cli.options import JsonOpt, QuietOpt, VerboseOpt
from toolkit.cli.output import say, show_json

if TYPE_CHECKING:
    from toolkit.cache import Entry

__all__: list[str] = []


@app.command("cache")
def cache_(
    clear: Annotated[bool, typer.Option("--clear", help="Drop every finished pass, and what searches keep.")] = False,
    max_size: Annotated[
        str | None,
        typer.Option(help="Drop the least recently used beyond this size, now and from now on: 2GB. [5GB]"),
    ] = None,
    json: JsonOpt = False,
    verbose: VerboseOpt = 0,
    quiet: QuietOpt = False,
) -> int:
    """Finished passes that are kept: where, how many, how large; and what searches keep.

    A compile that was cut off goes on from them; a search evaluates nothing twice. --max-size bounds finished passes
    alone. TOOLKIT_CACHE names another folder.
    """
    from toolkit.cache import DiskCache
    from toolkit.units import parse_quantity

    if clear and max_size is not None:
        raise UsageError("--clear and --max-size", hint="give one of them: --clear drops everything")
    cache = DiskCache()
    dropped, forgotten = [], []
    if clear:
        dropped, forgotten = cache.clear(), cache.clear_searched()
    elif max_size is not None:
        dropped = cache.keep_below(int(parse_quantity("memory_bytes", max_size, what="--max-size")))
    entries, searched = cache.entries(), cache.searched()
    document = {
        "schema": "toolkit.cache/1",
        "folder": str(cache.folder),
        "entries": len(entries),
        "bytes": sum(e.bytes for e in entries),
        "max_bytes": cache.max_bytes,
        "oldest_use": _time(entries[0].used) if entries else None,
        "dropped": _counted(dropped),
        "search": _counted(searched) | {"dropped": _counted(forgotten)},
    }
    show_json(document) if json else _show(document, changed=clear or max_size is not None)
    return 0


def _counted(entries: Sequence[Entry]) -> dict[str, Any]:
    return {"entries": len(entries), "bytes": sum(e.bytes for e in entries)}


def _time(used: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(used, UTC).isoformat(timespec="seconds")


def _show(document: dict[str, Any], *, changed: bool) -> None:
    from toolkit import units

    if changed:
        dropped = document["dropped"]
        say(f"dropped {dropped['entries']} finished passes, {units.bytes_(dropped['bytes'])}")
        if (forgotten := document["search"]["dropped"])["entries"]:
            say(f"dropped {forgotten['entries']} files of searches, {units.bytes_(forgotten['bytes'])}")
    say(f"{document['folder']}: {document['entries']} finished passes, {units.bytes_(document['bytes'])} "
        f"of at most {units.bytes_(document['max_bytes'])}")  # fmt: skip
    if document["oldest_use"]:
        say(f"the least recently used was last used at {document['oldest_use']}")
    if (searched := document["search"])["entries"]:
        say(f"searches keep {searched['entries']} files, {units.bytes_(searched['bytes'])}; --clear drops them too")
