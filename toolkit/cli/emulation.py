"""toolkit verify --emulate"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from toolkit.cli.output import progress, say, show_json

if TYPE_CHECKING:
    from toolkit.bundle.bundle import Bundle
    from toolkit.verify.emulation import Distance, Emulation

__all__ = ["EmulateOpt", "verify_emulated"]

EmulateOpt = Annotated[
    bool, typer.Option("--emulate", help="Run the golden inputs on an emulated core of the target (QEMU).")
]


def verify_emulated(bundle: Bundle, *, json: bool, quiet: bool) -> int:
    """Print what the emulated core answered; 1 where that is not what was recorded.

    Raises:
        MissingDependency: the emulator or its root is not installed, or QEMU has no such core.
        InvalidInput: the artefact fails there.
    """
    from toolkit.verify.emulation import emulate_bundle

    with progress(quiet or json) as tell:
        made = emulate_bundle(bundle, tell)
    if json:
        show_json(made.to_json())
    else:
        say(f"{len(bundle.manifest['sha256'])} files match their hashes")
        _show(made)
    return 0 if made.passed else 1


def _show(made: Emulation) -> None:
    from toolkit import units

    say(f"{made.verification.samples} golden samples through {made.file} on an emulated {made.cpu}")
    say(f"  {made.emulator}; {made.runtime}")
    say(f"against the answers recorded: {_far(made.recorded)} (needed: {units.decibels(made.verification.floor_db)})")
    say(f"against the float model: {_far(made.reference)}")
    say(
        f"memory of the process: {units.bytes_(made.memory_bytes)},"
        f" {units.bytes_(made.network_bytes)} of it for the network"
    )
    if counted := made.instructions:
        parts = ("memory", "branch", "integer", "vector", "other")
        shares = ", ".join(f"{k} {getattr(counted, k) / counted.total:.0%}" for k in parts if getattr(counted, k))
        told = "" if counted.other == counted.total else f" ({shares})"
        say(f"one inference: {units.count(counted.total, 'instructions')}{told}; a count, not a time")
    if runner := made.runner:
        verdict = "passed" if runner.passed else "FAILED"
        agrees = "identical" if runner.sqnr_db is None else units.decibels(runner.sqnr_db)
        say(f"self-test of run/runner: {verdict}, {agrees}; run/ holds {units.bytes_(runner.shipped_bytes)}")
    for note in made.notes:
        say(f"note: {note}")
    if made.not_executed:
        say(f"not executed: {made.not_executed}")
    say("verified" if made.passed else "NOT verified: the answers of the emulated core are not those recorded")


def _far(distance: Distance) -> str:
    from toolkit import units

    if distance.max_abs_error == 0:
        error = "identical"
    else:
        error = f"{units.decibels(distance.sqnr_db)}, largest error {distance.max_abs_error:.3g}"
    classes = f", {distance.classes_agree} of {distance.classes} classes agree" if distance.classes else ""
    return error + classes
