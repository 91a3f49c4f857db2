"""What every blueprint costs on every target, in float32 and in the precision that the target ships, and here.

    python -m toolkit.bench.blueprints [NAME ...] [--target TARGET ...] [--json]

NAME/step is one step of a network that streams, NAME/large a network of the size that phones and boards are sold with.

A network goes through the recipe of the target's default stack, as `toolkit compile` would take it; finished passes
are cached. Latency and memory are those of the targets' own cost models, with their intervals. Where a target's
precision would be slower than float32, and the recipe therefore ships float32, the row prices the whole network in that
precision all the same, and says so; so it is with large ones, which are priced and not compiled. What is measured is
one inference on this machine with onnxruntime and one thread, float32 and int8 in turns.

The published goal is an int8 that is 2 to 4 times as fast as float32 on edge hardware (Jacob et al. 2018,
arXiv:1712.05877, and the vendors' own pages); the last lines say for which rows it is true.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from typing import Any

from passes.context import Context
from passes.dataset import Dataset
from passes.program import Program
from passes.proof import Proof
from passes.recipe import recipe_for
from passes.running import run
from targets.cost import estimate
from targets.errors import ToolkitError, UnknownName
from targets.estimate import Estimate
from targets.graph import read_workload
from targets.stack import Stack
from targets.target import Target, load_target
from targets.verdict import Limits, judge
from toolkit import units
from toolkit.backends import BACKENDS
from toolkit.bench.steps import measured_s
from toolkit.cache import DiskCache, fingerprint
from toolkit.driver import Options, float_program
from toolkit.models import Entry, configured, entries
from toolkit.models.blueprints.config import parse
from toolkit.models.registry import CONVOLUTIONAL
from toolkit.sources import Source, load_source

__all__ = ["GOAL", "LARGE", "MATRIX", "Row", "rows", "subjects"]

MATRIX = CONVOLUTIONAL
"""Targets of the table, where none is named."""

GOAL = (2.0, 4.0)
_MEASURED_ON = "desktop_cpu"
_ALREADY = "comes quantized: both prices are those of its integers"
_STEP, _LARGE = "/step", "/large"
_STREAMING = ("sliding_conv" + _STEP,)

LARGE: Mapping[str, Mapping[str, Any]] = {
    "inverted_residual": {
        "image_size": 224, "channels": 3, "classes": 1000, "stem": 32, "widths": (16, 24, 32, 64, 96, 160),
        "depths": (1, 2, 3, 4, 3, 3), "expansion": 6, "head": 1280,
    },
    "separable_vision": {"image_size": 224, "channels": 3, "classes": 1000, "width": 32, "stages": (1, 2, 2, 6, 2)},
    "sliding_conv": {"channels": 12, "length": 4096, "width": 192, "blocks": 6},
    "vision_transformer": {
        "image_size": 224, "channels": 3, "classes": 1000, "patch": 16, "width": 192, "heads": 3, "depth": 12,
        "expansion": 4,
    },
}  # fmt: skip
"""MobileNetV2 (without its last stage) and V1 at 1.0, ten seconds of a twelve-lead ECG at 400 Hz, ViT-Ti/16."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One network on one target.

    Args:
        flop: Two for each multiply-accumulate.
        precision: What the target's default stack computes in; `ships` is what the recipe came to.
        float32, lower: Prices in float32 and in that precision; `lower` is float32 where that is the target's own.
        speed_up: Seconds of `float32` over those of `lower`.
        fits: Verdict on what ships against the target's own limits.
        measured_s: Seconds by precision on this machine; empty on other targets.
        note: Why it is not compiled, or does not ship in the target's precision.
    """

    name: str
    target: str
    stack: str
    parameters: int = 0
    flop: int = 0
    precision: str = ""
    ships: str = ""
    float32: Mapping[str, Any] | None = None
    lower: Mapping[str, Any] | None = None
    speed_up: float = 0.0
    fits: str = ""
    measured_s: Mapping[str, float] | None = None
    note: str = ""


@dataclass(frozen=True)
class _Subject:
    """A network with the data that it is quantized on; one that is not `compiled` is priced alone."""

    name: str
    entry: Entry
    source: Source
    data: Dataset | None = None
    compiled: bool = True


def rows(names: Sequence[str], targets: Sequence[str]) -> Iterator[Row]:
    """One row for each network and target, as they are known.

    Raises:
        UnknownName: there is no such network or target.
    """
    devices = [load_target(name) for name in targets]
    for name in names:
        subject = _subject(name)
        for device in devices:
            yield _row(subject, device)


def subjects(names: Sequence[str]) -> list[str]:
    """The networks of those names; where there are none every blueprint, in each of the sizes that it has here."""
    if names:
        return list(names)
    return [
        each
        for found in entries("blueprint")
        for each in (found.name, found.name + _STEP, found.name + _LARGE)
        if each == found.name or (each.endswith(_LARGE) and found.name in LARGE) or each in _STREAMING
    ]


def _subject(name: str) -> _Subject:
    bare, slash, size = name.partition("/")
    made, _ = configured(bare)
    if not slash:
        source = load_source(name)
        return _Subject(name, made, source, source.data)
    if name in _STREAMING:
        module = import_module(made.module)
        return _Subject(name, made, load_source(module.streaming()), module.streaming_calibration())
    if slash + size == _LARGE and bare in LARGE:
        config = made.config_type()
        assert config is not None
        large = parse(config, LARGE[bare])
        return _Subject(name, made, load_source((made.build(large), made.example(large))), compiled=False)
    raise UnknownName("network", name, [*_STREAMING, *(known + _LARGE for known in LARGE)])


# ---- one row


def _row(subject: _Subject, device: Target) -> Row:
    stack = device.stack(None)
    row = Row(name=subject.name, target=device.name, stack=stack.id, precision=stack.dtype)
    if reason := subject.entry.refused.get(device.name, ""):
        return replace(row, note=reason)
    plain = float_program(subject.source, stack, Options())
    work, before = read_workload(plain.static_model), estimate(plain.static_model, stack, as_is=True)
    row = replace(
        row,
        parameters=sum(p.numel() for p in subject.source.program.model.parameters()),
        flop=2 * work.macs,
        float32=_price(before),
    )
    if not subject.compiled:
        lower = estimate(plain.static_model, stack)
        fits = judge(lower, Limits.of(device))
        return replace(row, lower=_price(lower), speed_up=before.latency_s / lower.latency_s, fits=str(fits.outcome))
    try:
        shipped, proofs = _lowered(subject, stack)
    except ToolkitError as refusal:
        return replace(row, note=refusal.problem)
    after = estimate(shipped.static_model, stack, as_is=True)
    ships = "float32" if read_workload(shipped.static_model).is_float32 else stack.dtype
    lower = after if ships == stack.dtype else estimate(plain.static_model, stack)
    return replace(
        row,
        ships=ships,
        lower=_price(lower),
        speed_up=before.latency_s / lower.latency_s,
        fits=str(judge(after, Limits.of(device)).outcome),
        measured_s=_measured(plain, shipped, ships, subject.data) if device.name == _MEASURED_ON else None,
        note=_ALREADY if not work.is_float32 else "" if ships == stack.dtype else _why(proofs),
    )


def _lowered(subject: _Subject, stack: Stack) -> tuple[Program, Sequence[Proof]]:
    """The graph that the stack ships, and how it came about."""
    backend = BACKENDS[stack.backend]
    program = subject.source.program
    outcome = run(recipe_for(stack, program.level), program, Context(stack=stack, data=subject.data),
                  cache=DiskCache(), fingerprint=fingerprint(),
                  prepared=lambda graph: backend.check(graph, stack))  # fmt: skip
    return outcome.program, outcome.proofs


def _price(found: Estimate) -> dict[str, Any]:
    return {
        "latency_s": found.latency_s,
        "latency_interval_s": found.latency_interval_s,
        "peak_memory_bytes": found.peak_memory_bytes,
        "memory_interval_bytes": found.memory_interval_bytes,
        "calibrated": found.calibrated,
        "extrapolated": found.extrapolated,
    }


def _measured(plain: Program, shipped: Program, ships: str, data: Dataset | None) -> dict[str, float]:
    programs = {"float32": plain} if ships == "float32" else {"float32": plain, ships: shipped}
    return measured_s(programs, plain.example if data is None else next(iter(data)))


def _why(proofs: Sequence[Proof]) -> str:
    """What kept a network in float32."""
    reasons = [f"{p.name} {p.decision}: {p.reason}" for p in proofs if p.reason and "which an earlier" not in p.reason]
    return "; ".join(reasons)


# ---- the command line


def _show(found: Sequence[Row]) -> None:
    head = (
        f"{'network':22} {'target':15} {'params':>8} {'FLOP':>8} {'float32':>9} {'interval':>20} {'lower':>9} "
        f"{'interval':>20} {'in':8} {'faster':>7} {'memory':>17} {'fits':12} {'here':>18}"
    )
    print(head)
    for row in found:
        print(_line(row))
    print(
        "\nmemory: float32, then lower; lower: the whole network in the precision that the target's stack computes in"
    )
    print("in: *, it ships in float32, since the lower precision is predicted to be slower, or was refused; +, priced")
    print(f"here: float32, then lower, measured on this machine, for {_MEASURED_ON} alone")
    for name in dict.fromkeys(row.name for row in found if row.note == _ALREADY):
        print(f"{name}: {_ALREADY}")
    _show_goal(found)


def _line(row: Row) -> str:
    if row.float32 is None or row.lower is None:
        return f"{row.name:22} {row.target:15} {row.note}"
    shipped = row.precision + {row.precision: "", "": "+"}.get(row.ships, "*")
    memory = " ".join(units.bytes_(price["peak_memory_bytes"]) for price in (row.float32, row.lower))
    here = " ".join(units.seconds(s) for s in (row.measured_s or {}).values())
    return (
        f"{row.name:22} {row.target:15} {units.count(row.parameters, ''):>8} {units.count(row.flop, ''):>8} "
        f"{_latency(row.float32)} {_latency(row.lower)} {shipped:8} {row.speed_up:>6.2f}x {memory:>17} {row.fits:12} "
        f"{here:>18}"
    ).rstrip()


def _latency(price: Mapping[str, Any]) -> str:
    return f"{units.seconds(price['latency_s']):>9} {units.interval('latency_s', price['latency_interval_s']):>20}"


def _show_goal(found: Sequence[Row]) -> None:
    """Where int8 is as much faster as was published."""
    print(f"\nint8 is published to be {GOAL[0]:g} to {GOAL[1]:g} times as fast as float32 on edge hardware. Predicted:")
    for target in dict.fromkeys(row.target for row in found):
        ours = [row for row in found if row.target == target and row.float32 is not None]
        if not ours:
            continue
        if ours[0].precision != "int8":
            print(f"  {target}: has no int8 ({ours[0].precision} instead)")
            continue
        reached = [row.name for row in ours if row.speed_up >= GOAL[0]]
        print(f"  {target}: true of {len(reached)} of {len(ours)}{': ' if reached else ''}{', '.join(reached)}")
    faster = [row.measured_s["float32"] / row.measured_s["int8"] for row in found if "int8" in (row.measured_s or {})]  # type: ignore[index]
    if faster:
        print(f"measured here, of the {len(faster)} that ship in int8: {min(faster):.2f}x to {max(faster):.2f}x")


def _reported(names: Sequence[str], targets: Sequence[str]) -> Iterator[Row]:
    """The rows, with a bar on stderr where that is a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    total = len(names) * len(targets)
    yield from track(rows(names, targets), "blueprints", total=total, console=console, transient=True,
                     disable=not console.is_terminal)  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m toolkit.bench.blueprints",
        description="What every blueprint costs on every target, in float32 and in what the target ships.",
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="of `toolkit models`; also NAME@width=16, NAME/step, NAME/large"
    )
    parser.add_argument("--target", action="append", metavar="TARGET", help=f"may be repeated ({', '.join(MATRIX)})")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given = parser.parse_args(arguments)
    try:
        found = list(_reported(subjects(given.names), given.target or MATRIX))
    except ToolkitError as error:
        parser.exit(error.exit_code, f"error: {error.problem}\n  next: {error.hint}\n")
    if given.json:
        document = {"schema": "toolkit.bench.blueprints/1", "goal": GOAL, "rows": [asdict(row) for row in found]}
        print(json.dumps(document, indent=1))
    else:
        _show(found)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
