"""int8 after training, with each repair and without, beside float32 and what others make of the same networks.

    python -m toolkit.bench.ptq [--json] [--peer-python PYTHON]... [NETWORK ...]

Others are onnxruntime's own quantization, NNCF and AIMET; the latter two are run in an interpreter of their own, see
README. All are calibrated on the same samples and asked about others: SQNR and share of equal decisions against
float32, accuracy where there are labels, bytes of the file, latency at one thread as a share of float32's, all ways run
in turn, and the seconds that quantization and repairs took. Repairs are applied without their proofs, so that what
would be reverted is seen as well; the recipe is run as a compile runs it. Under each network the recipe stands against
the best of the others, in each respect by itself; it is worse where a 95 % interval of paired differences says so, and
in bytes and time it also stands against the best of those whose answers are as right as its own.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from passes.compare import errors, sqnr_db
from passes.context import Budget, Context
from passes.contract import Pass
from passes.dataset import Array, Dataset
from passes.metric import each_label
from passes.onnx_level.correct_bias import CorrectBias
from passes.onnx_level.equalise_channels import EqualiseChannels
from passes.onnx_level.quantize_int8 import QuantizeInt8
from passes.onnx_level.ranges import Method
from passes.onnx_level.round_adaptively import RoundAdaptively
from passes.onnx_level.smooth_activations import SmoothActivations
from passes.onnxruntime import Session
from passes.program import Program
from passes.recipe import Recipe, float32, int8
from passes.running import run
from targets.errors import ToolkitError
from targets.stack import Stack
from targets.target import load_stack
from toolkit import units
from toolkit.bench.peers import peers, plain_export
from toolkit.bench.trained import TASKS, Task
from toolkit.bench.verdicts import Measured, Verdict, outcome, ratio_of_medians, said, verdicts
from toolkit.timing import in_turns_s

__all__ = ["RECIPE", "Compared", "Row", "compare_networks", "ways"]

RECIPE, COMPILED, FLOAT = "int8, repaired", "int8, as compiled", "float32"
"""The recipe's steps; the same where a proof may take one back, for a network that they make no faster or too noisy."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way of quantizing one network. `agreement` is the share of decisions that are float32's.

    `latency_share` is the time of one sample through float32's, with the ends of its 95 % interval.
    """

    network: str
    way: str
    theirs: bool = False
    sqnr_db: float | None = None
    agreement: float | None = None
    accuracy: float | None = None
    size_bytes: int = 0
    latency_s: float = 0.0
    latency_share: tuple[float, float, float] = (0.0, 0.0, 0.0)
    seconds: float = 0.0
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A network's rows, and the recipe against the best of the others."""

    network: str
    rows: tuple[Row, ...]
    verdicts: tuple[Verdict, ...] = ()


@dataclass(frozen=True)
class _Made:
    """A way's graph, or why there is none."""

    model: bytes = b""
    seconds: float = 0.0
    note: str = ""
    theirs: bool = False


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


def compare_networks(names: Sequence[str] = tuple(TASKS), pythons: Sequence[Path] = ()) -> Iterator[Compared]:
    """Of each network; one row with a note where its package is not installed.

    Args:
        pythons: Interpreters that have other quantizers, beside this one.
    """
    stack = load_stack("desktop_cpu/onnxruntime-int8")
    for name in names:
        task = TASKS[name]()
        if task is None:
            row = Row(network=name, way="", note="what it needs is not installed: see README")
            yield Compared(network=name, rows=(row,))
        else:
            yield _compared(task, _made(task, Context(stack=stack, data=task.calibration), pythons))


def _made(task: Task, ctx: Context, pythons: Sequence[Path]) -> dict[str, _Made]:
    ready = run(float32(ctx.stack, task.program.level), task.program, ctx).program
    made = {FLOAT: _Made(ready.onnx_bytes)}
    for way, steps in ways(ctx.stack).items():
        made[way] = _tried(partial(_applied, steps, ready, ctx))
    recipe = int8(ctx.stack, task.program.level)
    freely = replace(ctx, budget=Budget(min_sqnr_db=-inf), pace=_AnyPace())
    for way, rules in ((RECIPE, freely), (COMPILED, ctx)):
        made[way] = _tried(partial(_as_recipe, recipe, task.program, rules))
    exported = plain_export(task.program)
    for peer in peers(pythons):
        made[peer.name] = replace(_tried(partial(peer.quantize, exported, task.calibration)), theirs=True)
    return made


def _tried(make: Callable[[], bytes]) -> _Made:
    start = time.perf_counter()
    try:
        return _Made(make(), time.perf_counter() - start)
    except ToolkitError as refusal:
        return _Made(note=f"{refusal.problem}; {refusal.hint}")
    except Exception as error:  # the failure of a library is a result
        return _Made(note=f"{type(error).__name__}: {' '.join(str(error).split())[:80]}")


class _AnyPace:
    """Takes nothing back for time."""

    key = "any"

    def slower(self, step: str, before: Program, after: Program) -> bool:
        return False


def _as_recipe(recipe: Recipe, source: Program, ctx: Context) -> bytes:
    return run(recipe, source, ctx).program.onnx_bytes


def _applied(steps: Sequence[Pass], ready: Program, ctx: Context) -> bytes:
    program = ready.with_model(ready.model)  # what was found out for another way is not taken from it
    for step in steps:
        step.requires(program, ctx)
        program = step.apply(program, ctx)
    return program.onnx_bytes


# ---- what they are worth


def _compared(task: Task, made: Mapping[str, _Made]) -> Compared:
    sessions: dict[str, Session] = {}
    notes = {way: one.note for way, one in made.items() if one.note}
    for way, one in made.items():
        if not one.note:
            try:
                sessions[way] = Session(one.model)
            except ToolkitError as refusal:
                notes[way] = refusal.problem
    answers = {way: _answers(session, task.asked) for way, session in sessions.items()}
    first = next(iter(task.asked))
    durations = in_turns_s({way: partial(_answer, session, first) for way, session in sessions.items()})
    rows = tuple(
        Row(network=task.name, way=way, theirs=one.theirs, note=notes[way])
        if way in notes
        else _row(task, way, one, answers, durations)
        for way, one in made.items()
    )
    measured = {
        way: Measured(
            way=way,
            right=_agreement(task, answers[way], answers[FLOAT]) if task.asked.labels is None
            else _accuracy(task, answers[way], task.asked.labels),
            size_bytes=len(made[way].model),
            durations_s=durations[way],
        )
        for way in sessions
    }  # fmt: skip
    others = [measured[way] for way in sessions if made[way].theirs]
    found = tuple(verdicts(measured[RECIPE], others)) if RECIPE in measured else ()
    return Compared(network=task.name, rows=rows, verdicts=found)


def _row(
    task: Task, way: str, one: _Made, answers: Mapping[str, list[Array]], durations: Mapping[str, list[float]]
) -> Row:
    have, truth, labels = answers[way], answers[FLOAT], task.asked.labels
    share, (low, high) = ratio_of_medians(durations[way], durations[FLOAT])
    return Row(
        network=task.name,
        way=way,
        theirs=one.theirs,
        sqnr_db=None if way == FLOAT else sqnr_db(*errors(np.stack(truth), np.stack(have))[:2]),
        agreement=float(_agreement(task, have, truth).mean()),
        accuracy=None if labels is None else float(_accuracy(task, have, labels).mean()),
        size_bytes=len(one.model),
        latency_s=float(np.median(durations[way])),
        latency_share=(share, low, high),
        seconds=one.seconds,
    )


def _answers(session: Session, asked: Dataset) -> list[Array]:
    """The first output of each sample, with onnxruntime's own optimiser on, as it is deployed."""
    return [_answer(session, sample) for sample in asked]


def _answer(session: Session, sample: Mapping[str, Array]) -> Array:
    """Names of inputs may differ from one graph to another; their order does not."""
    return next(iter(session(dict(zip(session.inputs(), sample.values(), strict=True))).values()))


def _agreement(task: Task, have: list[Array], truth: list[Array]) -> Array:
    """(samples,) share of the decisions that are the same."""
    return np.array([(task.decide(a) == task.decide(b)).mean() for a, b in zip(have, truth, strict=True)])


def _accuracy(task: Task, have: list[Array], labels: Array) -> Array:
    """(samples,) share of the decisions that are as labelled."""
    wanted = [np.asarray(label).reshape(-1) for label in each_label(labels)]
    return np.array([(task.decide(a).reshape(-1) == b).mean() for a, b in zip(have, wanted, strict=True)])


# ---- the command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(TASKS)}; all where none is named"
    )
    parser.add_argument(
        "--peer-python", action="append", default=[], type=Path, metavar="PYTHON",
        help="an interpreter that has NNCF or AIMET-ONNX; may be given twice; this one where left out",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given = parser.parse_args()
    if unknown := set(given.networks) - set(TASKS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(TASKS)}")
    if missing := [str(path) for path in given.peer_python if not path.is_file()]:
        parser.error(f"no such interpreter: {', '.join(missing)}")
    logging.disable(logging.WARNING)
    compared = compare_networks(given.networks or tuple(TASKS), [path.absolute() for path in given.peer_python])
    if given.json:
        document: Mapping[str, Any] = {"schema": "toolkit.bench.ptq/2", "networks": [asdict(one) for one in compared]}
        print(json.dumps(document, indent=1))
        return
    for one in compared:
        _show(one)


def _show(one: Compared) -> None:
    print(f"{one.network:38} {'SQNR':>9} {'agrees':>7} {'accuracy':>9} {'size':>9} {'latency':>9} "
          f"{'of float32':>10} {'took':>8}")  # fmt: skip
    for row in one.rows:
        print(f"  {row.way:36} {row.note or _figures(row)}")
    for verdict in one.verdicts:
        print(f"  {outcome(verdict)}: {said(verdict)}")
    print(flush=True)


def _figures(row: Row) -> str:
    drift = "-" if row.sqnr_db is None else units.decibels(row.sqnr_db)
    accuracy = "-" if row.accuracy is None else f"{row.accuracy:.4f}"
    return (
        f"{drift:>9} {row.agreement:>7.4f} {accuracy:>9} {units.bytes_(row.size_bytes):>9} "
        f"{units.seconds(row.latency_s):>9} {row.latency_share[0]:>10.3f} {units.seconds(row.seconds):>8}"
    )


if __name__ == "__main__":
    main()
