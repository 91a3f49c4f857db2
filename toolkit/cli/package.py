"""toolkit package"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from targets.errors import UsageError
from toolkit.cli.app import app
from toolkit.cli.options import JsonOpt, QuietOpt, VerboseOpt
from toolkit.cli.output import progress, say, show_json

__all__: list[str] = []


@app.command("package")
def package_(
    cli: Annotated[bool, typer.Option("--cli", help="The whole command line, torch included.")] = False,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the program; replaced where it holds an older one.")
    ] = Path("dist/toolkit"),
    json: JsonOpt = False,
    verbose: VerboseOpt = 0,
    quiet: QuietOpt = False,
) -> int:
    """Freeze the toolkit into a folder that needs no Python.

    It runs on systems like this one: the same processor, a C library as new. Takes some minutes and about a gigabyte.
    A runner for one bundle is made by `toolkit compile --standalone`.
    """
    if not cli:
        raise UsageError("say what to package", hint="--cli; for a bundle's runner: toolkit compile --standalone")
    from toolkit import units
    from toolkit.standalone.freezing import freeze_cli

    with progress(quiet or json) as report:
        program = freeze_cli(output, report)
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file() and not file.is_symlink())
    if json:
        show_json({"schema": "toolkit.package/1", "program": str(program), "size_bytes": size})
    else:
        say(f"{program}: {units.bytes_(size)}")
    return 0
