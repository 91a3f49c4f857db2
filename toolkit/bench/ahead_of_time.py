"""Programs without dependencies side by side: each network, machine and precision, with every byte and instruction.

    python -m toolkit.bench.ahead_of_time [--json] [--machine MACHINE]... [--precision PRECISION]... [NETWORK ...]

Trained networks are compiled to executables and asked what they were not calibrated on, in QEMU where the machine is
another than this one: bytes of the executable, of its constants, of its arena and of the scratch memory in it;
instructions of one inference; the largest error, SQNR and equal decisions against PyTorch. Loops are not tuned, and
instructions are no time: no row says how fast a board is. A program for this machine is also timed, in turns with
onnxruntime at one thread on the same graph.
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from math import isinf
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from passes.compare import errors, sqnr_db
from passes.context import Context
from passes.dataset import Array, Sample
from passes.onnxruntime import Session
from passes.program import Program
from passes.recipe import RECIPES
from passes.running import run
from targets.errors import MissingDependency, ToolkitError
from targets.target import load_target
from toolkit import units
from toolkit.backends.ahead_of_time import MACHINES, Built, compile_executable, count_instructions
from toolkit.bench.emulated import NETWORKS
from toolkit.bench.trained import Task
from toolkit.timing import in_turns_s

__all__ = ["PRECISIONS", "Row", "program_rows"]

PRECISIONS = ("float32", "int8")
_STACK = "program-int8"
"""Of a Raspberry Pi 4: its integer format is that of every machine."""

_SAMPLES = 4
_INFERENCES = 20
"""In one timed run of a program: its start is timed apart, and taken off."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One program; `note` says why there are no figures. Errors are of the output that fares worst.

    `instructions` is None where they cannot be counted: on this machine's own processor, or without QEMU's plugins.
    `latency_s` and onnxruntime's are None everywhere else.
    """

    network: str
    machine: str
    precision: str
    executable_bytes: int = 0
    weight_bytes: int = 0
    arena_bytes: int = 0
    scratch_bytes: int = 0
    instructions: int | None = None
    latency_s: float | None = None
    onnxruntime_latency_s: float | None = None
    samples: int = 0
    max_error: float | None = None
    sqnr_db: float | None = None
    agreement: float | None = None
    note: str = ""


def program_rows(
    networks: Sequence[str] = tuple(NETWORKS),
    machines: Sequence[str] = tuple(MACHINES),
    precisions: Sequence[str] = PRECISIONS,
) -> Iterator[Row]:
    """A row for each network, machine and precision."""
    for name in networks:
        task = NETWORKS[name]()
        if task is None:
            yield Row(network=name, machine="", precision="", note="what it needs is not installed: see README")
            continue
        samples = list(islice(task.asked, _SAMPLES))
        truth = [task.program.run(sample) for sample in samples]
        for precision in precisions:
            program = _prepared(task, precision)
            for machine in machines:
                try:
                    yield _row(task, program, machine, precision, samples, truth)
                except ToolkitError as refusal:
                    yield Row(network=name, machine=machine, precision=precision, note=refusal.problem)


def _prepared(task: Task, precision: str) -> Program:
    stack = load_target("raspberry_pi_4").stack(_STACK)
    ctx = Context(stack=stack, data=task.calibration)
    return run(RECIPES[precision](stack, task.program.level), task.program, ctx).program


def _row(
    task: Task, program: Program, machine: str, precision: str, samples: Sequence[Sample], truth: Sequence[Sample]
) -> Row:
    with TemporaryDirectory() as folder:
        built = compile_executable(program, MACHINES[machine], Path(folder, "program"))
        given = [_renamed(built, sample) for sample in samples]
        answers = built.many(given)
        latency_s, theirs_s = _times_s(built, program, given[0])
        decided, right = (_decided(task, answer) for answer in (answers, truth))
        pairs = [_errors(answers, truth, position) for position in range(len(built.outputs))]
        return Row(
            network=task.name,
            machine=machine,
            precision=precision,
            executable_bytes=built.path.stat().st_size,
            weight_bytes=built.memory.weight_bytes,
            arena_bytes=built.memory.arena_bytes,
            scratch_bytes=built.memory.scratch_bytes,
            instructions=_instructions(built, given[0]),
            latency_s=latency_s,
            onnxruntime_latency_s=theirs_s,
            samples=len(samples),
            max_error=max(worst for _, worst in pairs),
            sqnr_db=min(db for db, _ in pairs),
            agreement=float(np.mean(decided == right)),
        )


def _renamed(built: Built, sample: Sample) -> Sample:
    """The sample under the names that the graph gave its inputs, which keep their order."""
    return {tensor.name: array for tensor, array in zip(built.inputs, sample.values(), strict=True)}


def _instructions(built: Built, sample: Sample) -> int | None:
    """Of one inference: what a second sample adds."""
    if built.machine.architecture == platform.machine():
        return None
    once = built.packed(sample)
    try:
        counted = [count_instructions(built.path, built.machine, once * times).total for times in (1, 2)]
    except MissingDependency:
        return None
    return counted[1] - counted[0]


def _times_s(built: Built, program: Program, sample: Sample) -> tuple[float | None, float | None]:
    """Of one inference, the program's and onnxruntime's, where the program is for this machine."""
    if built.machine.architecture != platform.machine():
        return None, None
    session = Session(program.onnx_bytes, threads=1)
    inputs = {spec.name: array for spec, array in zip(program.signature.inputs, sample.values(), strict=True)}
    taken = in_turns_s(
        {
            "started": lambda: built.many([sample]),
            "program": lambda: built.many([sample] * (1 + _INFERENCES)),
            "onnxruntime": lambda: [session(inputs) for _ in range(_INFERENCES)],
        }
    )
    started, ours, theirs = (median(times) for times in taken.values())
    return (ours - started) / _INFERENCES, theirs / _INFERENCES


def _decided(task: Task, answers: Sequence[Sample]) -> Array:
    return np.array([task.decide(next(iter(answer.values()))).reshape(-1)[0] for answer in answers])


def _errors(answers: Sequence[Sample], truth: Sequence[Sample], position: int) -> tuple[float, float]:
    """SQNR over all samples of one output, and its largest error."""
    rows = [
        errors(list(want.values())[position], list(have.values())[position])
        for want, have in zip(truth, answers, strict=True)
    ]
    return sqnr_db(sum(row[0] for row in rows), sum(row[1] for row in rows)), max(row[2] for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(NETWORKS)}; all where left out")
    parser.add_argument("--machine", action="append", choices=list(MACHINES), help="may be given twice; all")
    parser.add_argument("--precision", action="append", choices=PRECISIONS, help="may be given twice; all")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given = parser.parse_args()
    if unknown := set(given.networks) - set(NETWORKS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(NETWORKS)}")
    rows = program_rows(
        given.networks or tuple(NETWORKS), given.machine or tuple(MACHINES), given.precision or PRECISIONS
    )
    if given.json:
        print(json.dumps({"schema": "toolkit.bench.ahead_of_time/1", "rows": [_plain(row) for row in rows]}, indent=1))
        return
    print(f"{'network':20} {'machine':18} {'':8}{'executable':>11} {'constants':>10} {'arena':>9} {'scratch':>9} "
          f"{'instructions':>13} {'error':>9} {'SQNR':>9} {'agrees':>7}  time here, of onnxruntime's")  # fmt: skip
    for row in rows:
        print(_line(row), flush=True)


def _plain(row: Row) -> dict[str, object]:
    return {k: None if isinstance(v, float) and isinf(v) else v for k, v in asdict(row).items()}


def _line(row: Row) -> str:
    head = f"{row.network:20} {row.machine:18} {row.precision:8}"
    if row.note:
        return f"{head}{row.note}"
    sizes = (row.executable_bytes, row.weight_bytes, row.arena_bytes, row.scratch_bytes)
    shown = [f"{units.bytes_(size):>{width}}" for size, width in zip(sizes, (11, 10, 9, 9), strict=True)]
    counted = "-" if row.instructions is None else f"{row.instructions / 1e6:.2f} M"
    drift = "identical" if row.sqnr_db is None or isinf(row.sqnr_db) else units.decibels(row.sqnr_db)
    return f"{head}{' '.join(shown)} {counted:>13} {row.max_error:9.2g} {drift:>9} {row.agreement:7.2f}  {_timed(row)}"


def _timed(row: Row) -> str:
    if row.latency_s is None or row.onnxruntime_latency_s is None:
        return "-"
    return f"{units.seconds(row.latency_s)}, {row.latency_s / row.onnxruntime_latency_s:.2f} times"


if __name__ == "__main__":
    main()
