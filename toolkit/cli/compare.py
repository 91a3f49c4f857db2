"""toolkit compare"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.app import app
from toolkit.cli.comparison import show_comparison
from toolkit.cli.options import JsonOpt, PreprocessOpt, QuietOpt, VerboseOpt
from toolkit.cli.output import progress, show_json

__all__: list[str] = []


@app.command("compare")
def compare_(
    first: Annotated[Path, typer.Argument(metavar="A", help="Folder of a bundle.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Folder of the bundle to set against it.")],
    data: Annotated[
        str | None,
        typer.Option(help="Samples that both answer here, with labels where they have them. [the golden samples of A]"),
    ] = None,
    preprocess: PreprocessOpt = None,
    measure: Annotated[bool, typer.Option("--measure", help="Also time both on this machine, in turns.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of one operator then. [the stacks']")] = None,
    json: JsonOpt = False,
    verbose: VerboseOpt = 0,
    quiet: QuietOpt = False,
) -> int:
    """Set two bundles side by side: estimates, where the time goes, accuracy, passes, answers.

    Of estimates, the interval of the ratio is as wide as if the two errors had nothing in common; on one stack they
    have, and --measure tells more.
    """
    from targets.errors import UsageError
    from toolkit.bundle.bundle import open_bundle
    from toolkit.comparing import compare_bundles

    if threads is not None and not measure:
        raise UsageError("--threads is for --measure", hint="add --measure, or leave --threads out")
    if preprocess is not None and data is None:
        raise UsageError("--preprocess is for --data", hint="add --data, or leave --preprocess out")
    with progress(quiet or json) as report:
        found = compare_bundles(
            open_bundle(first), open_bundle(second), data=data, preprocess=preprocess, measure=measure,
            threads=threads, progress=report,
        )  # fmt: skip
    show_json(found.to_json()) if json else show_comparison(found)
    return 0
