"""toolkit report"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from targets.errors import MissingDependency, UsageError
from toolkit.cli.app import app
from toolkit.cli.options import JsonOpt, QuietOpt, VerboseOpt
from toolkit.cli.output import say, show_json

__all__: list[str] = []


@app.command("report")
def report_(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Folder of a bundle, or of the atlas of a search.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the page there. [beside what it shows]")
    ] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
    json: JsonOpt = False,
    verbose: VerboseOpt = 0,
    quiet: QuietOpt = False,
) -> int:
    """The page of a bundle or of an atlas, as one file that needs no network.

    A bundle holds its page, which is checked with its other files and never changed; -o writes it anew from the
    figures, as this version of the toolkit shows them. The page of an atlas is written anew beside its atlas.json.
    """
    page = _atlas_page(path, output) if _is_atlas(path) else _bundle_page(path, output)
    show_json({"schema": "toolkit.report_page/1", "page": str(page)}) if json else say(str(page))
    if open_page and typer.launch(page.resolve().as_uri()) != 0:
        raise MissingDependency("no browser could be started", hint=f"open {page} yourself")
    return 0


def _is_atlas(path: Path) -> bool:
    from toolkit.search.atlas.sealing import ATLAS
    from toolkit.search.atlas.unfinished import unfinished

    return (path / ATLAS).is_file() or unfinished(path) is not None


def _atlas_page(path: Path, output: Path | None) -> Path:
    from toolkit.search.atlas.page import write_page

    return write_page(path, output)


def _bundle_page(path: Path, output: Path | None) -> Path:
    from toolkit.bundle.bundle import open_bundle

    bundle = open_bundle(path)
    if output is None:
        return bundle.path / "report.html"
    if output.resolve().is_relative_to(bundle.path.resolve()):
        raise UsageError(
            f"{output} lies in the bundle, whose files are not changed", hint="name a file outside of it with -o"
        )
    from toolkit.report.html import render
    from toolkit.search.atlas.page import replace_text

    replace_text(output, render(bundle.report))
    return output
