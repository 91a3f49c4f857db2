"""Instructions of one inference, counted on emulated cores, and how well a fit to them tells those of other networks.

    python -m toolkit.bench.instructions [--json] [--write] [STACK ...]
    python -m toolkit.bench.instructions --count ROWS.csv [STACK ...]

The second counts small networks of every kind as each stack runs them, and keeps a table with the networks beside it,
which `toolkit calibrate STACK ROWS.csv` takes. The first fits the rows that are shipped, stack by stack, and leaves
networks and families out to say how far a prediction is off; `--write` stores the fits that estimates use. Counts are
equal on every run; they are what a processor has to do, and no time.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

import targets
from passes.program import Program
from targets.coefficients import document_of, dumps
from targets.counts import fit_counts, prior_counts
from targets.errors import ToolkitError
from targets.fitting import HeldOut, Measured
from targets.graph import read_workload
from targets.latency import LatencyFit
from targets.overlay import COUNTED
from targets.stack import Stack
from targets.target import load_target, shipped_stack
from toolkit.backends.ahead_of_time import MACHINES, Instructions, compile_executable, count_instructions
from toolkit.backends.litert.runtime import Interpreter
from toolkit.backends.litert.tflite import tflite_bytes
from toolkit.calibration.counted import COLUMNS
from toolkit.calibration.measuring import lowered, sample_of
from toolkit.calibration.specimens import SPECIMENS, Specimen
from toolkit.emulator.cores import core_of
from toolkit.emulator.running import answers_of

__all__ = ["NETWORKS", "STACKS", "Counted", "count", "fitted", "shipped_rows"]

STACKS = (
    "raspberry_pi_4/program-fp32",
    "raspberry_pi_4/program-int8",
    "raspberry_pi_4/tflite-int8",
    "raspberry_pi_4/onnxruntime-int8",
)
"""With rows that are shipped; others can be counted as well."""
_MOST_MACS = 250e6
"""Of a network that is counted: seconds of emulation, and work of every kind all the same."""

_SMALL: Mapping[str, Sequence[tuple[int, ...]]] = {
    "plain": ((12, 8), (32, 8)), "residual": ((16, 16),), "separable": ((32, 8),), "inverted": ((32, 8, 3),),
    "fire": ((32, 8),), "perceptron": ((64, 2), (128, 3)),
}  # fmt: skip
_WRITERS = {specimen.family: specimen.write for specimen in SPECIMENS}
NETWORKS = (*(Specimen(name, size, _WRITERS[name]) for name, sizes in _SMALL.items() for size in sizes), *SPECIMENS)
"""Those that latencies are fitted to, and smaller ones: a count needs no clock that is fine enough for them."""

_ROWS = "rows/instructions/counted.csv"


@dataclass(frozen=True, kw_only=True)
class Counted:
    """A network's instructions on a stack; `note` says why there are none."""

    stack: str
    specimen: Specimen
    cpu: str = ""
    runtime: str = ""
    instructions: Instructions | None = None
    note: str = ""


def count(stack_name: str, specimens: Sequence[Specimen] = NETWORKS) -> Iterator[Counted]:
    """A row for each network that is small enough."""
    stack = shipped_stack(stack_name)
    for specimen in specimens:
        program = specimen.program()
        if read_workload(program.static_model).macs > _MOST_MACS:
            continue
        try:
            yield _counted(specimen, lowered(program, stack), stack)
        except ToolkitError as refusal:
            yield Counted(stack=stack.id, specimen=specimen, note=refusal.problem)


def _counted(specimen: Specimen, program: Program, stack: Stack) -> Counted:
    """One thread computes, whatever the stack says: threads share work, and wait in loops that are counted as well."""
    sample = sample_of(program)
    if stack.machine:
        with TemporaryDirectory() as folder:
            built = compile_executable(program, MACHINES[stack.machine], Path(folder, "program"))
            once = built.packed({t.name: a for t, a in zip(built.inputs, sample.values(), strict=True)})
            one, two = (count_instructions(built.path, built.machine, once * times) for times in (1, 2))
            return Counted(
                stack=stack.id,
                specimen=specimen,
                cpu=built.machine.emulated_cpu,
                runtime=f"{stack.runtime} {stack.runtime_version}",
                instructions=two - one,
            )
    core = core_of(load_target(stack.target))
    if stack.artifact == "tflite":
        content = tflite_bytes(program, stack)
        made = answers_of("litert", content, Interpreter(content).given(sample) * 3, core, 1)
    else:
        made = answers_of("onnxruntime", program.onnx_bytes, [sample] * 3, core, 1)
    return Counted(
        stack=stack.id, specimen=specimen, cpu=made.cpu, runtime=made.runtime, instructions=made.instructions
    )


def write_counts(stacks: Sequence[str], path: Path) -> None:
    """The table, a line at a time, and the networks in a folder of its name."""
    folder = path.with_suffix("")
    folder.mkdir(exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        table.writeheader()
        for stack in stacks:
            for row in count(stack):
                print(f"{row.stack:34} {row.specimen.name:22} {row.note or row.instructions}", flush=True)
                if row.instructions is None:
                    continue
                graph = folder / f"{row.specimen.name}.onnx"
                graph.write_bytes(row.specimen.model().SerializeToString())
                table.writerow(
                    {
                        "stack": row.stack,
                        "model": row.specimen.name,
                        "family": row.specimen.family,
                        "cpu": row.cpu,
                        "runtime": row.runtime,
                        "instructions": row.instructions.total,
                        **asdict(row.instructions),
                        "path": f"{folder.name}/{graph.name}",
                    }
                )
                file.flush()


# ---- what a fit to them is worth


def shipped_rows(stack: Stack) -> list[Measured]:
    """The rows that are kept of `stack`; their networks are written anew."""
    known = {specimen.name: specimen for specimen in NETWORKS}
    text = (files("toolkit.bench") / _ROWS).read_text("utf-8").splitlines()
    rows = [row for row in csv.DictReader(text) if row["stack"] == stack.id]
    return [_row(known[row["model"]], float(row["instructions"]), stack) for row in rows]


def _row(specimen: Specimen, instructions: float, stack: Stack) -> Measured:
    work = read_workload(specimen.program().static_model, fuses=stack.fuses).at_precision(stack.dtype)
    return Measured(specimen.name, specimen.family, work, instructions)


def fitted(stack: Stack) -> tuple[LatencyFit, HeldOut, HeldOut]:
    """The fit, and what it says of networks and of families that were left out."""
    return fit_counts(shipped_rows(stack), prior_counts(), stack)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stacks", nargs="*", metavar="STACK", help=f"of {', '.join(STACKS)}; all where none is named")
    parser.add_argument("--count", type=Path, metavar="ROWS.csv", help="count, and keep the rows")
    parser.add_argument("--write", action="store_true", help="store the fits")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    if given.count:
        write_counts(given.stacks or STACKS, given.count)
        return
    fits: dict[str, dict[str, LatencyFit]] = {}
    lines = []
    for name in given.stacks or STACKS:
        stack = shipped_stack(name)
        fit, by_network, by_family = fitted(stack)
        fits.setdefault(stack.target, {})[stack.name] = fit
        lines.append(_line(stack, fit, by_network, by_family))
        if not given.json:
            _show(lines[-1], first=len(lines) == 1)
    if given.json:
        print(json.dumps({"schema": "toolkit.bench.instructions/1", "rows": lines}, indent=1))
    if given.write:
        for target, found in fits.items():
            path = Path(targets.__path__[0], COUNTED, f"{target}.json")
            path.parent.mkdir(exist_ok=True)
            path.write_text(dumps({stack: document_of(fit) for stack, fit in found.items()}), "utf-8")


def _line(stack: Stack, fit: LatencyFit, by_network: HeldOut, by_family: HeldOut) -> dict[str, Any]:
    return {
        "stack": stack.id,
        "rows": fit.rows,
        **{
            f"{name}_{key}": value
            for name, left_out in (("network", by_network), ("family", by_family))
            for key, value in _errors(left_out).items()
        },
    }


def _errors(left_out: HeldOut) -> Mapping[str, float | None]:
    errors = left_out.errors
    return {
        "mean_error": left_out.mape,
        "median_error": float(np.median(errors)),
        "worst_error": float(errors.max()),
        "coverage": left_out.coverage,
    }


def _show(line: Mapping[str, Any], *, first: bool) -> None:
    if first:
        print(f"{'':34} {'':4} {'networks left out':^36}  {'families left out':^36}")
        print(f"{'stack':34} {'rows':>4} " + "  ".join(["    mean  median   worst  80 % holds"] * 2))
    cells = [
        "  ".join(
            [*(f"{line[f'{name}_{key}_error']:>6.1%}" for key in ("mean", "median", "worst")),
             f"{line[f'{name}_coverage'] or 0:>10.0%}"]
        )
        for name in ("network", "family")
    ]  # fmt: skip
    print(f"{line['stack']:34} {line['rows']:>4}   " + "    ".join(cells), flush=True)


if __name__ == "__main__":
    main()
