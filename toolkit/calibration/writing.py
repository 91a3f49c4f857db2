"""Measure networks on this machine, and write a table that `toolkit calibrate` takes.

The networks that were measured lie in a folder beside the table. What is in the table already is not measured again.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from passes.program import Program
from targets.errors import InvalidInput, UsageError
from targets.graph import read_workload
from targets.stack import Stack
from targets.target import load_stack, load_target
from toolkit.calibration.measuring import lowered, sample_of
from toolkit.calibration.reading import check_shapes
from toolkit.calibration.rows import COLUMNS, read_table
from toolkit.calibration.setting import check_threads, setting
from toolkit.calibration.timing import latency_s
from toolkit.input_shapes import parse_input, spelled
from toolkit.measuring import check_host
from toolkit.sources import load_source

__all__ = ["Written", "write_rows"]

_SECONDS = 1.0
_IDENTITY = ("path", "device_variant", "runtime", "precision", "threads", "input_shape")


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a run added to a table: the rows that it measured, how many were there, and what could not be measured."""

    file: Path
    stack: Stack
    setting: Mapping[str, str]
    measured: tuple[Mapping[str, str], ...]
    kept: int
    skipped: tuple[tuple[str, str], ...]

    def to_json(self) -> dict[str, Any]:
        """A plain document; units are in the keys."""
        return {
            "schema": "toolkit.bench/1",
            "file": str(self.file),
            "stack": self.stack.id,
            **self.setting,
            "measured": [
                {
                    "model": row["model"],
                    "family": row["family"],
                    "input_shape": row["input_shape"],
                    "latency_s": float(row["latency_ms"]) / 1e3,
                    "path": row["path"],
                }
                for row in self.measured
            ],
            "kept": self.kept,
            "skipped": [{"model": model, "reason": reason} for model, reason in self.skipped],
        }


@dataclass(frozen=True)
class _Network:
    """A network to measure. `load` reads or makes it."""

    name: str
    family: str
    load: Callable[[], Program]


def write_rows(
    file: str | Path,
    models: Sequence[str] = (),
    *,
    stack: str = "desktop_cpu/onnxruntime-fp32",
    threads: int | None = None,
    variant: str | None = None,
    inputs: Sequence[str] = (),
    progress: Callable[[str, float], None] = lambda step, done: None,
) -> Written:
    """Measure `models`, or the built-in set, as `stack` would run them, and add a row for each to the table `file`.

    Args:
        models: ONNX files. A float32 one is quantized first where the stack is of 8-bit integers.
        stack: A stack of onnxruntime on this kind of processor.
        threads: Of one operator; the stack's where None.
        variant: What the rows call this machine; the processor's name where None.
        inputs: Shapes where the files do not say them.

    Raises:
        UsageError: the stack is none of this machine, or it has fewer processors than threads were asked for.
        InvalidInput: a file or the table cannot be read, or the table not be written.
    """
    file, known = Path(file), load_stack(stack)
    check_threads(threads)
    _check_host(known)
    where = setting(known, threads=threads or known.threads or 1, variant=variant)
    table = [cells for _, cells in read_table(file, ("path", "latency_ms"))] if file.exists() else []
    networks = list(_given(models, inputs) if models else _built_in())
    measured: list[Mapping[str, str]] = []
    skipped: list[tuple[str, str]] = []
    kept = 0
    for i, network in enumerate(networks):
        progress(f"measuring {network.name}", i / len(networks))
        program = network.load()
        row = _row(file, network, program, where)
        if any(all(cells.get(name, "") == row[name] for name in _IDENTITY) for cells in table):
            kept += 1
            continue
        try:
            form = _form(program, known)
        except InvalidInput as error:
            if models:
                raise
            skipped.append((network.name, error.problem))
            continue
        seconds = _measure(file.parent / row["path"], form, int(where["threads"]))
        row["latency_ms"] = f"{seconds * 1e3:.5g}"
        table.append(row)
        measured.append(row)
        _write(file, table)
    return Written(file=file, stack=known, setting=where, measured=tuple(measured), kept=kept, skipped=tuple(skipped))


def _check_host(stack: Stack) -> None:
    try:
        check_host(load_target(stack.target), stack)
    except UsageError as error:
        raise UsageError(
            error.problem, hint="name a stack of onnxruntime on this kind of processor with --stack; `toolkit targets`"
        ) from error


def _given(models: Sequence[str], inputs: Sequence[str]) -> Iterator[_Network]:
    for model in models:
        yield _Network(Path(model).stem, "", partial(_loaded, model, inputs))


def _loaded(model: str, inputs: Sequence[str]) -> Program:
    if Path(model).suffix != ".onnx":
        raise UsageError(f"{model} is no ONNX file", hint="write one: toolkit export MODEL")
    program = load_source(model, inputs=inputs).program
    check_shapes(program, [parse_input(text) for text in inputs], hint="state it, like --input 1x3x224x224")
    return program


def _built_in() -> Iterator[_Network]:
    from toolkit.calibration.specimens import SPECIMENS

    for specimen in SPECIMENS:
        yield _Network(specimen.name, specimen.family, specimen.program)


def _row(file: Path, network: _Network, program: Program, where: Mapping[str, str]) -> dict[str, str]:
    """Everything but the latency. Files are named after what they were made from: another network, another row."""
    name = re.sub(r"[^\w.-]", "_", network.name)
    precision = "" if where["precision"] == "fp32" else f"-{where['precision']}"
    path = f"{file.stem}-models/{name}-{program.digest[:8]}{precision}.onnx"
    return {
        **dict.fromkeys(COLUMNS, ""),
        **where,
        "id": f"own-{where['precision']}-{name}-{program.digest[:8]}",
        "batch": "1",
        "model": network.name,
        "family": network.family,
        "input_shape": spelled(program.example),
        "source_title": "measured by toolkit bench",
        "source_ref": "median of the fastest half of the runs",
        "date": date.today().isoformat(),
        "path": path,
    }


def _form(program: Program, stack: Stack) -> Program:
    """What the stack runs: for integers a float32 network is quantized, all else is taken as it stands."""
    is_float = stack.precision == "int8" and read_workload(program.static_model).is_float32
    return lowered(program, stack) if is_float else program


def _measure(path: Path, program: Program, threads: int) -> float:
    """Seconds of one inference of what is saved at `path`."""
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(program.onnx_bytes)
    return latency_s(program.onnx_bytes, sample_of(program), threads=threads, seconds=_SECONDS)


def _write(file: Path, table: Sequence[Mapping[str, str]]) -> None:
    """The whole table, or the one before; its own columns first."""
    columns = list(dict.fromkeys([name for cells in table for name in cells]))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    with _writing(file):
        scratch = file.with_name(f".{file.name}.{os.getpid()}")
        scratch.write_text(text.getvalue(), "utf-8")
        os.replace(scratch, file)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InvalidInput(f"cannot write {path}: {error.strerror}", hint="choose a folder you may write") from error
