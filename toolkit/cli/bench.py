"""toolkit bench"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from toolkit.cli.app import app
from toolkit.cli.options import InputOpt, JsonOpt, QuietOpt, VerboseOpt
from toolkit.cli.output import progress, say, show_json, table

if TYPE_CHECKING:
    from toolkit.calibration.writing import Written

__all__: list[str] = []


@app.command("bench")
def bench_(
    write_rows: Annotated[
        Path, typer.Option("--write-rows", metavar="ROWS.csv", help="Add a row for each network to this table.")
    ],
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL.onnx]...", help="ONNX files; the built-in networks if left out."),
    ] = None,
    stack: Annotated[
        str, typer.Option(help="Stack of onnxruntime whose precision and threads are measured.")
    ] = "desktop_cpu/onnxruntime-fp32",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of one operator. [the stack's]")] = None,
    variant: Annotated[str | None, typer.Option(help="What the rows call this machine. [the processor's name]")] = None,
    inputs: InputOpt = None,
    json: JsonOpt = False,
    verbose: VerboseOpt = 0,
    quiet: QuietOpt = False,
) -> int:
    """Measure networks on this machine, for `toolkit calibrate`.

    Each runs through onnxruntime for a second; the median of the fastest half of its runs counts, with one thread by
    the clock of that thread. With several, leave the machine alone meanwhile. The built-in networks are small ones of
    eleven kinds, written in seconds; float32 networks are quantized first where the stack is of 8-bit integers. Rows
    that the table holds already are not measured again, so that a run that was cut off goes on. The files that were
    measured lie in a folder beside the table.
    """
    from toolkit.calibration.writing import write_rows as measure

    with progress(quiet or json) as report:
        written = measure(
            write_rows,
            models or (),
            stack=stack,
            threads=threads,
            variant=variant,
            inputs=inputs or (),
            progress=report,
        )
    show_json(written.to_json()) if json else _show(written)
    return 0


def _show(written: Written) -> None:
    from toolkit import units

    rows = [
        [row["model"], row["input_shape"], units.seconds(float(row["latency_ms"]) / 1e3)] for row in written.measured
    ]
    if rows:
        table(["network", "input", "latency"], rows, right=(2,))
        say()
    for model, reason in written.skipped:
        say(f"left out: {model}: {reason}")
    setting = written.setting
    say(f"{written.file}: {len(written.measured)} rows added, {written.kept} were there; {setting['runtime']}, "
        f"{setting['precision']}, threads: {setting['threads']}, on {setting['device_variant']}")  # fmt: skip
    say(f"next: toolkit calibrate {written.stack.id} {written.file}")
