"""toolkit targets"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any

import typer

from targets.modes import Mode
from targets.stack import Stack
from targets.target import Target, load_target, target_names
from toolkit.cli.app import app
from toolkit.cli.options import JsonOpt, QuietOpt, VerboseOpt
from toolkit.cli.output import say, show_json, table

__all__: list[str] = []


@app.command("targets")
def targets_(
    name: Annotated[
        str | None, typer.Argument(metavar="TARGET", help="Show one target with the source of each number.")
    ] = None,
    json: JsonOpt = False,
    verbose: VerboseOpt = 0,
    quiet: QuietOpt = False,
) -> int:
    """Devices, their stacks, and the source of every number."""
    if json:
        chosen = [name] if name else target_names()
        show_json({"schema": "toolkit.targets/1", "targets": [_document(n) for n in chosen]})
        return 0
    if name:
        _show_one(name)
        return 0
    rows = []
    for target in map(load_target, target_names()):
        for stack in target.stacks.values():
            default = "*" if stack.name == target.default_stack else ""
            rows.append([target.name, stack.name + default, stack.describe(), _calibration(stack)])
    table(["target", "stack", "runtime", "latency from"], rows)
    say("\n* default stack; an uncalibrated stack is priced from the data sheet, with a wide interval")
    return 0


def _calibration(stack: Stack) -> str:
    fit = stack.latency
    known = f"{fit.rows} measured rows" if fit.calibrated else "uncalibrated"
    return known + {"": "", "used": " of your own", "outdated": " (your own are outdated)"}[stack.own_calibration]


def _show_one(name: str) -> None:
    from toolkit import units

    target = load_target(name)
    say(f"{target.name}: {target.title} ({target.device_type})")
    facts = [
        ("memory", units.bytes_(target.memory_bytes), "memory_bytes"),
        ("usable memory", units.bytes_(target.usable_memory_bytes), "usable_memory_bytes"),
        *((f"peak {p}", units.count(v, "op/s"), "peak_flop_s") for p, v in target.peak_flop_s.items()),
        ("memory bandwidth", units.count(target.dram_bytes_s, "B/s"), "dram_bytes_s"),
        ("power budget", f"{target.power_budget_w:g} W", "power_budget_w"),
        ("latency target", units.seconds(target.latency_target_s), "latency_target_s"),
    ]
    table(["", "", "source"], [[label, value, target.source[key]] for label, value, key in facts], right=(1,))
    say(f"\n{target.notes}\n")
    for stack in target.stacks.values():
        default = " (default)" if stack.name == target.default_stack else ""
        say(f"{stack.name}{default}: {stack.describe()}; {stack.provenance}")
    _show_settings(target)


def _show_settings(target: Target) -> None:
    """What --mode, --threads and --sustained may say here."""
    settings = target.settings
    rows = [[f"--mode {name}", _clocks(mode), mode.source] for name, mode in settings.modes.items()]
    if settings.threading:
        rows.append([f"--threads 1-{settings.threading.cores}", "", settings.threading.source])
    if settings.sustained:
        rows.append(["--sustained", _clocks(settings.sustained), settings.sustained.source])
    if rows:
        say()
        table(["setting", "clocks", "source"], rows)


def _clocks(mode: Mode) -> str:
    from toolkit import units

    clocks = [("", mode.core_hz), ("memory ", mode.memory_hz), ("host ", mode.host_hz)]
    parts = [f"{what}{units.count(hertz, 'Hz')}" for what, hertz in clocks if hertz]
    if mode.slower != 1:
        parts.append(f"x{mode.slower:g} as long")
    return ", ".join(parts)


def _document(name: str) -> dict[str, Any]:
    target = load_target(name)
    return {
        "name": target.name,
        "title": target.title,
        "device_type": target.device_type,
        "memory_bytes": target.memory_bytes,
        "usable_memory_bytes": target.usable_memory_bytes,
        "peak_flop_s": dict(target.peak_flop_s),
        "dram_bytes_s": target.dram_bytes_s,
        "power_budget_w": target.power_budget_w,
        "latency_target_s": target.latency_target_s,
        "parameters": dict(target.parameters),
        "source": dict(target.source),
        "settings": {
            "modes": {name: asdict(mode) for name, mode in target.settings.modes.items()},
            "sustained": asdict(target.settings.sustained) if target.settings.sustained else None,
            "threading": asdict(target.settings.threading) if target.settings.threading else None,
        },
        "default_stack": target.default_stack,
        "stacks": [
            {
                "name": stack.name,
                "id": stack.id,
                "runtime": stack.runtime,
                "runtime_version": stack.runtime_version,
                "precision": stack.precision,
                "threads": stack.threads,
                "batch": stack.batch,
                "power_mode": stack.power_mode,
                "calibrated": stack.latency.calibrated,
                "own_calibration": stack.own_calibration,
                "rows": stack.latency.rows,
                "provenance": stack.provenance,
                "measured_as": dict(stack.measured_as),
            }
            for stack in target.stacks.values()
        ],
    }
