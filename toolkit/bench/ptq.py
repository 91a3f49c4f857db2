"""int8 after training, with each repair and without, beside float32 and onnxruntime's own static quantization.

    python -m toolkit.bench.ptq [--json] [NETWORK ...]

All are calibrated on the same samples and asked about others: SQNR and share of equal top-1 against float32, accuracy
where there are labels, bytes, and the seconds that quantization and repairs took. Passes are applied without their
proofs, so that what would be reverted is seen as well; the format is that of desktop_cpu's int8 stack.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from passes.compare import errors, sqnr_db
from passes.context import Context
from passes.contract import Pass, PassFailed
from passes.dataset import Array, Dataset
from passes.onnx_level.correct_bias import CorrectBias
from passes.onnx_level.equalise_channels import EqualiseChannels
from passes.onnx_level.quantize_int8 import QuantizeInt8
from passes.onnx_level.ranges import Method
from passes.onnx_level.round_adaptively import RoundAdaptively
from passes.onnx_level.smooth_activations import SmoothActivations
from passes.onnxruntime import Session
from passes.program import Program
from passes.recipe import float32
from passes.running import run
from targets.stack import Stack
from targets.target import load_stack
from toolkit import units
from toolkit.bench.quantization import plain_export, plain_static
from toolkit.bench.trained import TASKS, Task

__all__ = ["Row", "compare_repairs", "ways"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way of quantizing one network. `agreement` is the share of samples with float32's top-1."""

    network: str
    way: str
    sqnr_db: float | None = None
    agreement: float | None = None
    accuracy: float | None = None
    size_bytes: int = 0
    seconds: float = 0.0
    note: str = ""


def ways(stack: Stack) -> Mapping[str, tuple[Pass, ...]]:
    """The passes behind float32's, by the name of the row."""
    plain = _int8(stack, "minmax")
    return {
        "int8": (plain,),
        "int8, percentile": (_int8(stack, "percentile"),),
        "int8, mse": (_int8(stack, "mse"),),
        "int8, best": (_int8(stack, "best"),),
        "EqualiseChannels": (EqualiseChannels(), plain),
        "SmoothActivations": (SmoothActivations(convolutions=True), plain),
        "CorrectBias": (plain, CorrectBias()),
        "RoundAdaptively": (plain, RoundAdaptively()),
        "Equalise + CorrectBias": (EqualiseChannels(), plain, CorrectBias()),
        "Smooth + CorrectBias": (SmoothActivations(convolutions=True), plain, CorrectBias()),
        "Smooth + Round + Correct": (SmoothActivations(convolutions=True), plain, RoundAdaptively(), CorrectBias()),
    }


def _int8(stack: Stack, ranges: Method) -> QuantizeInt8:
    format_ = stack.quantization
    assert format_ is not None
    return QuantizeInt8(
        activation=format_.activation,
        activation_symmetric=format_.activation_symmetric,
        per_channel=format_.per_channel,
        least_channels=format_.least_channels,
        ranges=ranges,
    )


def compare_repairs(names: Sequence[str] = tuple(TASKS)) -> Iterator[Row]:
    """Rows of each network; one with a note where its package is not installed, or a way does not apply."""
    stack = load_stack("desktop_cpu/onnxruntime-int8")
    for name in names:
        task = TASKS[name]()
        if task is None:
            yield Row(network=name, way="", note="what it needs is not installed: see README")
        else:
            yield from _rows(task, Context(stack=stack, data=task.calibration))


def _rows(task: Task, ctx: Context) -> Iterator[Row]:
    ready = run(float32(ctx.stack, task.program.level), task.program, ctx).program
    truth = _answers(ready.onnx_bytes, task.asked)
    yield _row(task, "float32", ready.onnx_bytes, truth, 0.0)
    exported = plain_export(task.program)
    start = time.perf_counter()
    try:
        plain = plain_static(exported, task.calibration)
        yield _row(task, "onnxruntime static", plain, truth, time.perf_counter() - start)
    except Exception as error:  # the peer's failure is a result
        note = f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"
        yield Row(network=task.name, way="onnxruntime static", note=note)
    for way, steps in ways(ctx.stack).items():
        start = time.perf_counter()
        program = ready.with_model(ready.model)  # what was found out for another way is not taken from it
        try:
            for step in steps:
                program = _applied(step, program, ctx)
        except PassFailed as refusal:
            yield Row(network=task.name, way=way, note=refusal.problem)
            continue
        yield _row(task, way, program.onnx_bytes, truth, time.perf_counter() - start)


def _applied(step: Pass, program: Program, ctx: Context) -> Program:
    step.requires(program, ctx)
    return step.apply(program, ctx)


def _answers(model: bytes, asked: Dataset) -> Array:
    """(samples, classes), with onnxruntime's own optimiser on, as it is deployed. Names of inputs may differ."""
    session = Session(model)
    return np.concatenate(
        [next(iter(session(dict(zip(session.inputs(), s.values(), strict=True))).values())) for s in asked]
    )


def _row(task: Task, way: str, model: bytes, truth: Array, seconds: float) -> Row:
    have = truth if way == "float32" else _answers(model, task.asked)
    labels = task.asked.labels
    return Row(
        network=task.name,
        way=way,
        sqnr_db=None if way == "float32" else sqnr_db(*errors(truth, have)[:2]),
        agreement=float((have.argmax(axis=1) == truth.argmax(axis=1)).mean()),
        accuracy=None if labels is None else float((have.argmax(axis=1) == labels).mean()),
        size_bytes=len(model),
        seconds=seconds,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(TASKS)}; all where none is named"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given = parser.parse_args()
    if unknown := set(given.networks) - set(TASKS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(TASKS)}")
    logging.disable(logging.WARNING)
    rows = compare_repairs(given.networks or tuple(TASKS))
    if given.json:
        document: Mapping[str, Any] = {"schema": "toolkit.bench.ptq/1", "rows": [asdict(row) for row in rows]}
        print(json.dumps(document, indent=1))
        return
    print(f"{'network':20} {'way':26} {'SQNR':>9} {'agrees':>7} {'accuracy':>9} {'size':>9} {'took':>8}")
    for row in rows:
        if row.note:
            print(f"{row.network:20} {row.way:26} {row.note}")
            continue
        drift = "-" if row.sqnr_db is None else units.decibels(row.sqnr_db)
        accuracy = "-" if row.accuracy is None else f"{row.accuracy:.3f}"
        print(f"{row.network:20} {row.way:26} {drift:>9} {row.agreement:>7.3f} {accuracy:>9} "
              f"{units.bytes_(row.size_bytes):>9} {units.seconds(row.seconds):>8}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
