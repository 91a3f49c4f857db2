"""toolkit archive"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from targets.errors import InvalidInput, UsageError
from toolkit.cli.app import app
from toolkit.cli.options import JsonOpt, QuietOpt, VerboseOpt
from toolkit.cli.output import say, show_json, table

if TYPE_CHECKING:
    from toolkit.search.archive import CVTArchive
    from toolkit.search.elites import Elite

__all__: list[str] = []


@app.command("archive")
def archive_(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Folder of an archive, or of the atlas of a search.")],
    where: Annotated[
        list[str] | None,
        typer.Option("--where", metavar="LIMIT", help="Elites within a limit, as 'latency_s<=20ms'. May be repeated."),
    ] = None,
    best: Annotated[int, typer.Option("--best", metavar="N", help="How many elites to show, best first.")] = 10,
    merge: Annotated[
        Path | None, typer.Option("--merge", metavar="OTHER", help="Write what both hold to the folder of -o.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="New folder, with --merge.")] = None,
    json: JsonOpt = False,
    verbose: VerboseOpt = 0,
    quiet: QuietOpt = False,
) -> int:
    """What an archive holds: how many of its cells, how good, and the best within your limits."""
    from toolkit.search.folder import load, save
    from toolkit.search.limits import parse_limits

    if (merge is None) != (output is None):
        raise UsageError("--merge and -o go together", hint="toolkit archive A --merge B -o NEW")
    archive = load(_archive_in(path))
    if merge is not None and output is not None:
        archive.merge(load(_archive_in(merge)))
        save(archive, output)
    found = archive.query(parse_limits(archive, where or ()))
    shown = found[: max(0, best)]
    if json:
        show_json(_document(archive, shown) | {"matching": len(found)})
        return 0
    _show(archive, shown, len(found))
    if output is not None:
        say(f"merged: {output}")
    return 0


def _archive_in(path: Path) -> Path:
    """`path`, or the archive below it where it is the folder of a search, which holds one for each target.

    Raises:
        InvalidInput: there is no such folder, or it holds no archive.
        UsageError: it holds several.
    """
    if not path.is_dir():
        raise InvalidInput(f"there is no folder {path}", hint="name the folder of a search: atlas/MODEL")
    if (path / "manifest.json").is_file():
        return path
    found = sorted(
        manifest.parent for manifest in (*path.glob("archive/manifest.json"), *path.glob("*/archive/manifest.json"))
    )
    if not found:
        from toolkit.search.atlas.unfinished import unfinished

        if (pending := unfinished(path)) is not None:
            raise pending
        raise InvalidInput(f"{path} is no archive, and holds none", hint="name the folder of a search: atlas/MODEL")
    if len(found) > 1:
        raise UsageError(
            f"{path} holds {len(found)} archives, one for each target",
            hint=f"name one: {', '.join(str(one) for one in found)}",
        )
    return found[0]


def _document(archive: CVTArchive, elites: list[Elite]) -> dict[str, Any]:
    from dataclasses import asdict

    from toolkit.search.shards import has_tensors
    from toolkit.search.statistics import statistics

    stats = statistics(archive)
    return {
        "schema": "toolkit.archive/1",
        "measures": [measure.to_dict() for measure in archive.space.measures],
        "rules": archive.rules,
        **asdict(stats), "coverage": stats.coverage,
        "best_elites": [
            {"id": e.id, "cell": e.cell, "quality": e.quality, "n": e.evaluation.n, "sd": e.evaluation.sd,
             "violation": e.violation, "measures": dict(zip(archive.space.names, e.measures.tolist(), strict=True)),
             "genome": None if has_tensors(e.genome) else _plain(e.genome), "meta": dict(e.meta),
             "parents": list(e.parents)}
            for e in elites
        ],
    }  # fmt: skip


def _plain(genome: Any) -> dict[str, Any]:
    return dict(genome)


def _show(archive: CVTArchive, elites: list[Elite], matching: int) -> None:
    from toolkit import units
    from toolkit.search.limits import shown
    from toolkit.search.statistics import statistics

    stats = statistics(archive)
    names = ", ".join(archive.space.names)
    say(f"{stats.cells} cells of {names}; {stats.occupied} hold an elite ({stats.coverage:.0%})")
    if stats.best is None:
        say("no candidate was added yet")
        return
    low, high = archive.quality_min, archive.quality_max
    say(
        f"best quality {stats.best:.4g}; score {stats.qd_score:.4g} of {stats.cells * (high - low):.4g} "
        f"({stats.qd_norm:.1%}); {stats.seen} candidates seen; genomes take {units.bytes_(stats.nbytes)}"
    )
    say()
    measures = archive.space.measures
    rows = [
        [e.id, f"{e.quality:.4g}", f"{e.evaluation.n}", f"{e.violation:.3g}" if e.violation else "-",
         *(shown(m.unit, float(value)) for m, value in zip(measures, e.measures, strict=True))]
        for e in elites
    ]  # fmt: skip
    if rows:
        table(
            ["elite", "quality", "measured", "violation", *archive.space.names], rows, right=range(1, 4 + len(measures))
        )
    say(f"{len(elites)} of {matching} elites within the limits" if matching else "no elite lies within these limits")
