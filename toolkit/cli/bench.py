"""toolkit bench"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from targets.errors import UsageError
from toolkit.cli.app import app
from toolkit.cli.options import InputOpt, JsonOpt, QuietOpt, VerboseOpt
from toolkit.cli.output import progress, say, show_json, table
from toolkit.cli.times import show_times

if TYPE_CHECKING:
    from toolkit.calibration.writing import Written

__all__: list[str] = []

_STACK = "desktop_cpu/onnxruntime-fp32"


@app.command("bench")
def bench_(
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="BUNDLE", help="Folders of bundles; with --write-rows: ONNX files."),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of one operator. [the stack's]")] = None,
    write_rows: Annotated[
        Path | None,
        typer.Option(
            metavar="ROWS.csv", help="Add a row for each ONNX file to this table; for built-in networks without any."
        ),
    ] = None,
    stack: Annotated[
        str | None,
        typer.Option(help=f"For rows: stack of onnxruntime whose precision and threads are measured. [{_STACK}]"),
    ] = None,
    variant: Annotated[
        str | None, typer.Option(help="For rows: what they call this machine. [the processor's name]")
    ] = None,
    inputs: InputOpt = None,
    json: JsonOpt = False,
    verbose: VerboseOpt = 0,
    quiet: QuietOpt = False,
) -> int:
    """Time bundles on this machine; or measure networks on it, for `toolkit calibrate`.

    Several bundles run in turns, and the others are set against the first. A time here stands beside the estimate only
    where this is the board, or the kind of desktop, that the estimate is for, with its runtime and its threads.

    With --write-rows each network runs through onnxruntime for a second; the median of the fastest half of its runs
    counts, with one thread by the clock of that thread. With several, leave the machine alone meanwhile. The built-in
    networks are small ones of eleven kinds, written in seconds; float32 networks are quantized first where the stack
    is of 8-bit integers. Rows that the table holds already are not measured again, so that a run that was cut off goes
    on. The files that were measured lie in a folder beside the table.
    """
    if write_rows is None:
        return _times(paths or (), threads, {"--stack": stack, "--variant": variant, "--input": inputs}, json, quiet)
    from toolkit.calibration.writing import write_rows as measure

    with progress(quiet or json) as report:
        written = measure(
            write_rows,
            paths or (),
            stack=_STACK if stack is None else stack,
            threads=threads,
            variant=variant,
            inputs=inputs or (),
            progress=report,
        )
    show_json(written.to_json()) if json else _show_rows(written)
    return 0


def _times(paths: Sequence[str], threads: int | None, of_rows: dict[str, object], json: bool, quiet: bool) -> int:
    if not paths:
        raise UsageError(
            "no bundle was named", hint="name the folder that `toolkit compile` wrote, or say --write-rows"
        )
    if said := [flag for flag, value in of_rows.items() if value is not None]:
        raise UsageError(f"{said[0]} is for --write-rows", hint="leave it out, or add --write-rows ROWS.csv")
    from toolkit.bundle.bundle import open_bundle
    from toolkit.stopwatch import Stopwatch, ratio

    stopwatch = Stopwatch([open_bundle(path) for path in paths], threads)
    with progress(quiet or json) as report:
        found = stopwatch.times(progress=report)
    if json:
        against = [ratio(one, found[0]) for one in found[1:]]
        show_json(
            {
                "schema": "toolkit.bench/1",
                "times": [one.to_json() for one in found],
                "of_the_first": [{"ratio": value, "interval": list(ends)} for value, ends in against],
            }
        )
        return 0
    show_times(found)
    return 0


def _show_rows(written: Written) -> None:
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
