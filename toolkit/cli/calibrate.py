"""toolkit calibrate"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from targets.errors import UsageError
from toolkit.cli.app import app
from toolkit.cli.options import JsonOpt, QuietOpt, VerboseOpt
from toolkit.cli.output import progress, say, show_json, table

if TYPE_CHECKING:
    from toolkit.calibration.calibrating import Calibration
    from toolkit.calibration.counted import CountCalibration

__all__: list[str] = []


@app.command("calibrate")
def calibrate_(
    stack: Annotated[str, typer.Argument(metavar="STACK", help="target/stack; `toolkit targets` lists them.")],
    rows: Annotated[
        Path | None,
        typer.Argument(
            metavar="ROWS.csv",
            help="A table with the columns path (the ONNX file, beside the table or below) and latency_ms; also read: "
            "model, family, input_shape, device, device_variant, runtime, precision, threads, batch. With the column "
            "instructions in place of latency_ms: counts of an emulated core.",
        ),
    ] = None,
    forget: Annotated[bool, typer.Option("--forget", help="Drop your calibration of STACK.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Fit and print, and write nothing.")] = False,
    json: JsonOpt = False,
    verbose: VerboseOpt = 0,
    quiet: QuietOpt = False,
) -> int:
    """Fit a stack to your own measurements.

    Each network is read as an estimate reads it. The fit starts from the costs that are shipped and takes every cost
    from your rows as far as they tell it. What it says of networks that were left out of the fit is printed, and the
    costs are kept in your configuration folder (TOOLKIT_CONFIG names another): from then on every verb uses them and
    says so. `toolkit bench --write-rows` makes such a table on this machine.
    """
    if forget == (rows is not None):
        raise UsageError(
            "--forget and a table" if forget else "no table was named",
            hint="name a table of measurements to fit STACK to, or --forget to go back to what is shipped",
        )
    from targets.target import shipped_stack
    from toolkit.calibration import calibrating, counted

    if rows is None:
        dropped = calibrating.forget(stack)
        if json:
            show_json({"schema": "toolkit.forget/1", "stack": stack, "forgotten": dropped})
        else:
            say(f"{stack}: " + ("your calibration is dropped" if dropped else "there was no calibration of yours"))
        return 0
    shipped_stack(stack)  # a slip in its name is told before the table is read
    if counted.holds_counts(rows):
        with progress(quiet or json) as report:
            counts = counted.calibrate_counts(stack, rows, dry_run=dry_run, progress=report)
        show_json(counts.to_json()) if json else _show_counts(counts)
        return 0
    with progress(quiet or json) as report:
        found = calibrating.calibrate(stack, rows, dry_run=dry_run, progress=report)
    show_json(found.to_json()) if json else _show(found)
    return 0


def _show(found: Calibration) -> None:
    say(f"{found.stack.id} ({found.stack.describe()}), measured as {_measured_as(found)}")
    say()
    _show_rows(found)
    say()
    _show_errors(found)
    for line, reason in found.set_aside:
        say(f"set aside: line {line}: {reason}")
    say(f"started from: {found.started_from}")
    say(f"written: {found.file}" if found.file else "nothing was written")


def _show_counts(found: CountCalibration) -> None:
    from toolkit import units

    say(f"{found.stack.id}: instructions of one inference, which are no time")
    say()
    rows = []
    for row in found.to_json()["predictions"]:
        pairs = [(row[key], row[key] / row["instructions"] - 1) for key in ("without_network", "without_family")]
        cells = [cell for value, error in pairs for cell in (units.count(value, ""), f"{error:+.0%}")]
        rows.append([row["model"], row["family"], units.count(row["instructions"], ""), *cells])
    table(["network", "family", "counted", "without it", "", "without its family", ""], rows, right=(2, 3, 4, 5, 6))
    say()
    for name, left_out in found.errors.items():
        held = "" if left_out.coverage is None else f"; {left_out.coverage:.0%} in the 80 % interval"
        say(f"fitted, one {name} left out: mean error {left_out.mape:.1%}{held}")
    if found.set_aside:
        say(f"set aside: {found.set_aside} lines of other stacks")
    say(f"written: {found.file}" if found.file else "nothing was written")


def _measured_as(found: Calibration) -> str:
    return ", ".join(filter(None, (found.stack.measured_as[name] for name in ("device", "device_variant", "runtime"))))


def _show_rows(found: Calibration) -> None:
    from toolkit import units

    rows = []
    for row in found.predictions():
        pairs = [(row[key], row[key] / row["measured_s"] - 1) for key in ("without_network_s", "without_family_s")]
        cells = [cell for value, error in pairs for cell in (units.seconds(value), f"{error:+.0%}")]
        rows.append([row["model"], row["family"], units.seconds(row["measured_s"]), *cells])
    headings = ["network", "family", "measured", "without it", "", "without its family", ""]
    table(headings, rows, right=(2, 3, 4, 5, 6))


def _show_errors(found: Calibration) -> None:
    labels = {
        "unchanged": "costs as they were",
        "network": "fitted, one network left out",
        "family": "fitted, one family left out",
    }
    rows = [
        [
            labels[name],
            f"{errors.mape:.1%}",
            f"{errors.median:.1%}",
            f"{errors.within_10:.0%}",
            f"{errors.within_20:.0%}",
            "" if (share := found.coverage.get(name)) is None else f"{share:.0%}",
        ]
        for name, errors in found.errors.items()
    ]
    table(
        ["", "mean error", "median", "within 10 %", "within 20 %", "in the 80 % interval"], rows, right=(1, 2, 3, 4, 5)
    )
