"""toolkit init"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolkit.cli.app import app
from toolkit.cli.options import JsonOpt, ModelOpt, QuietOpt, StackOpt, TargetOpt, VerboseOpt
from toolkit.cli.output import say, show_json

__all__: list[str] = []


@app.command("init")
def init_(
    model: ModelOpt = None,
    target: TargetOpt = None,
    stack: StackOpt = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a toolkit.yaml that is there.")] = False,
    json: JsonOpt = False,
    verbose: VerboseOpt = 0,
    quiet: QuietOpt = False,
) -> int:
    """Write a commented toolkit.yaml into this folder.

    Every verb then takes its model, target and data from there; a flag beats the file. Without --model it names the
    built-in example, without --target the desktop CPU.
    """
    from toolkit.project_file import write_project

    path = write_project(Path.cwd(), model=model, target=target, stack=stack, force=force)
    if json:
        show_json({"schema": "toolkit.init/1", "file": path.name, "text": path.read_text("utf-8")})
        return 0
    say(f"{path.name} written: `toolkit check` says whether the model fits, `toolkit compile` makes the bundle")
    return 0
