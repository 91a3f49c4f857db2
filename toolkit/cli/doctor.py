"""toolkit doctor"""

from __future__ import annotations

from typing import Annotated

import typer

from toolkit.cli.app import app
from toolkit.cli.options import JsonOpt, QuietOpt, VerboseOpt
from toolkit.cli.output import progress, say, show_json

__all__: list[str] = []

InstallOpt = Annotated[
    bool,
    typer.Option(
        "--install-emulator",
        help="Make an arm64 Python with onnxruntime and LiteRT in the toolkit's cache folder, for `verify --emulate`: "
        "from apt's and pip's own sources, without a change to the system's packages.",
    ),
]


@app.command("doctor")
def doctor_(
    install_emulator: InstallOpt = False, json: JsonOpt = False, verbose: VerboseOpt = 0, quiet: QuietOpt = False
) -> int:
    """Is this installation whole? Exits with 3 when it is not."""
    from toolkit.health import examine

    if install_emulator:
        from toolkit.emulator.installing import install_root

        with progress(quiet or json) as tell:
            install_root(tell)
    findings = examine()
    broken = any(not f.ok and f.required for f in findings)
    if json:
        rows = [
            {"name": f.name, "ok": f.ok, "required": f.required, "found": f.found, "hint": f.hint} for f in findings
        ]
        show_json({"schema": "toolkit.doctor/1", "ok": not broken, "findings": rows})
        return 3 if broken else 0
    for f in findings:
        mark = "ok" if f.ok else ("MISSING" if f.required else "absent")
        say(f"{mark:8} {f.name:22} {f.found}" + (f"  -> {f.hint}" if f.hint and not f.ok else ""))
    return 3 if broken else 0
