"""Our .tflite beside litert-torch's, of the same networks, in float32 and in int8 after training.

    python -m toolkit.bench.litert [--json] [--peer-python PYTHON] [NETWORK ...]

litert-torch is run in an interpreter of its own: it cannot stand beside TVM. Both calibrate on the same samples, and
LiteRT runs both files here on one thread, in turns: accuracy where there are labels, else the share of decisions that
are float32's; bytes of the file; the time of one inference without what the caller does before and after. Under each
network ours stands against the best of theirs in the same precision, in each respect by itself; it is worse where a
95 % interval of paired differences says so.
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from passes.context import Context
from passes.dataset import Array, Dataset, Sample
from passes.metric import each_label
from passes.program import Program
from passes.quiet import silent_output
from passes.recipe import RECIPES
from passes.running import run
from targets.errors import MissingDependency, ToolkitError
from targets.target import load_stack
from toolkit import units
from toolkit.backends.litert.runtime import Interpreter
from toolkit.backends.litert.tflite import tflite_bytes
from toolkit.bench import foreign_litert
from toolkit.bench.emulated import NETWORKS
from toolkit.bench.trained import Task
from toolkit.bench.verdicts import Measured, Verdict, outcome, said, verdicts
from toolkit.timing import in_turns_s

__all__ = ["PRECISIONS", "Compared", "Row", "compare_network"]

PRECISIONS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "float32": ("raspberry_pi_4/tflite-fp32", ("float32",)),
    "int8": ("raspberry_pi_4/tflite-int8", ("int8", "int8, channels last")),
}
"""The stack that ours is made for, and the settings of theirs."""

_LONGEST_S = 900
_Answer = Callable[[Sample], Array]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One file of one network; `note` says why there is none. `latency_s` is the median of runs in turns."""

    network: str
    precision: str
    way: str
    theirs: bool
    right: float = 0.0
    size_bytes: int = 0
    latency_s: float = 0.0
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A network in one precision: its rows, and ours against the best of theirs."""

    network: str
    precision: str
    labelled: bool
    rows: tuple[Row, ...]
    verdicts: tuple[Verdict, ...] = ()


@dataclass(frozen=True)
class _File:
    """A .tflite that was made, with its answer to a sample, and one inference of it on the first sample."""

    way: str
    theirs: bool
    content: bytes
    answer: _Answer
    invoke: Callable[[], None]


def compare_network(task: Task, precision: str, python: Path) -> Compared:
    """Both ways of one network."""
    stack, settings = PRECISIONS[precision]
    made: list[_File] = []
    notes: dict[str, str] = {}
    for way, make in [
        ("ours", partial(_ours, task, stack)),
        *((f"litert-torch, {setting}", partial(_theirs, task, setting, python)) for setting in settings),
    ]:
        try:
            made.append(make())
        except ToolkitError as refusal:
            notes[way] = refusal.problem
    samples = list(task.asked)
    labels = None if task.asked.labels is None else list(each_label(task.asked.labels))
    truth = [next(iter(task.program.run(sample).values())) for sample in samples]
    durations = in_turns_s({one.way: one.invoke for one in made}, fewest=60) if made else {}
    measured = {
        one.way: Measured(
            way=one.way,
            right=_right(task, [one.answer(sample) for sample in samples], truth, labels),
            size_bytes=len(one.content),
            durations_s=durations[one.way],
        )
        for one in made
    }
    row_of = partial(Row, network=task.name, precision=precision)
    rows = [
        row_of(way=one.way, theirs=one.theirs, right=float(measured[one.way].right.mean()),
              size_bytes=len(one.content), latency_s=float(np.median(durations[one.way])))
        for one in made
    ]  # fmt: skip
    rows += [row_of(way=way, theirs=way != "ours", note=note) for way, note in notes.items()]
    others = [measured[one.way] for one in made if one.theirs]
    found = tuple(verdicts(measured["ours"], others)) if "ours" in measured else ()
    return Compared(
        network=task.name, precision=precision, labelled=labels is not None, rows=tuple(rows), verdicts=found
    )


def _right(task: Task, have: Sequence[Array], truth: Sequence[Array], labels: Sequence[Array] | None) -> Array:
    """(samples,) share of decisions that are as labelled, or as float32's."""
    wanted = [task.decide(answer) for answer in truth] if labels is None else [np.asarray(label) for label in labels]
    pairs = zip(have, wanted, strict=True)
    return np.array([(task.decide(answer).reshape(-1) == right.reshape(-1)).mean() for answer, right in pairs])


def _ours(task: Task, stack_name: str) -> _File:
    stack = load_stack(stack_name)
    recipe = RECIPES["int8" if stack.precision == "int8" else "float32"](stack, task.program.level)
    made = run(recipe, task.program, Context(stack=stack, data=task.calibration)).program
    content = tflite_bytes(made, stack)
    edges = Interpreter(content)

    def named(sample: Sample) -> Sample:
        return {spec.name: array for spec, array in zip(made.signature.inputs, sample.values(), strict=True)}

    def answer(sample: Sample) -> Array:
        return next(iter(edges(named(sample)).values()))

    first = edges.given(named(next(iter(task.asked))))[0]
    return _File("ours", False, content, answer, _invocation(content, list(first.values())))


def _theirs(task: Task, setting: str, python: Path) -> _File:
    content = _converted(task.program, task.calibration, setting, python)
    last = setting.endswith("channels last")

    def given(sample: Sample) -> list[Array]:
        return [np.moveaxis(array, 1, -1) if last else array for array in sample.values()]

    file = _loaded(content)

    def answer(sample: Sample) -> Array:
        _put(file, given(sample))
        file.invoke()
        detail = file.get_output_details()[0]
        return _floats(file.get_tensor(detail["index"]), detail)

    invoke = _invocation(content, given(next(iter(task.asked))))
    return _File(f"litert-torch, {setting}", True, content, answer, invoke)


def _converted(program: Program, data: Dataset, setting: str, python: Path) -> bytes:
    """
    Raises:
        MissingDependency: the interpreter has no litert-torch, or it failed on this network.
    """
    import torch

    with TemporaryDirectory() as folder:
        source, samples, made = (Path(folder, name) for name in ("model.pt2", "samples.npz", "made.tflite"))
        torch.export.save(program.exported, source)
        columns = zip(*(sample.values() for sample in data), strict=True)
        np.savez(samples, **{f"{i:03}": np.stack(values) for i, values in enumerate(columns)})  # type: ignore[arg-type]
        command = [python, "-I", "-W", "ignore", foreign_litert.__file__, setting, source, samples, made]
        try:
            done = subprocess.run(
                [str(part) for part in command], capture_output=True, text=True, check=False, timeout=_LONGEST_S
            )
        except subprocess.TimeoutExpired as error:
            raise MissingDependency(
                f"litert-torch was not done after {_LONGEST_S} s", hint=f"run by {python}"
            ) from error
        if not made.is_file():
            last = next((line for line in reversed(done.stderr.splitlines()) if "rror" in line), "nothing was said")
            raise MissingDependency(
                f"litert-torch failed: {last.strip()[:160]}",
                hint="python -m venv rival; rival/bin/pip install litert-torch; then --peer-python rival/bin/python",
            )
        return made.read_bytes()


# ---- LiteRT without what callers do around it


def _loaded(content: bytes) -> Any:
    from ai_edge_litert.interpreter import Interpreter as Plain

    with silent_output(2):  # it tells of its delegates
        file = Plain(model_content=content, num_threads=1)
        file.allocate_tensors()
    return file


def _put(file: Any, arrays: Sequence[Array]) -> None:
    for detail, array in zip(file.get_input_details(), arrays, strict=True):
        if detail["dtype"] == np.int8 and array.dtype == np.float32:
            scale, zero = detail["quantization"]
            array = np.clip(np.rint(array / np.float32(scale)) + zero, -128, 127).astype(np.int8)
        file.set_tensor(detail["index"], np.ascontiguousarray(array))


def _floats(array: Array, detail: Mapping[str, Any]) -> Array:
    if array.dtype != np.int8:
        return array
    scale, zero = detail["quantization"]
    made: Array = (array.astype(np.int32) - zero).astype(np.float32) * np.float32(scale)
    return made


def _invocation(content: bytes, arrays: Sequence[Array]) -> Callable[[], None]:
    file = _loaded(content)
    _put(file, arrays)
    invoke: Callable[[], None] = file.invoke
    return invoke


# ---- the command


def _comparisons(names: Sequence[str], python: Path) -> Iterator[Compared]:
    for name in names:
        task = NETWORKS[name]()
        if task is None:
            row = Row(
                network=name, precision="", way="", theirs=False, note="what it needs is not installed: see README"
            )
            yield Compared(network=name, precision="", labelled=False, rows=(row,))
            continue
        for precision in PRECISIONS:
            yield compare_network(task, precision, python)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(NETWORKS)}; all where none is named"
    )
    parser.add_argument("--peer-python", type=Path, default=Path(sys.executable), metavar="PYTHON",
                        help="an interpreter that has litert-torch; this one where left out")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given = parser.parse_args()
    if unknown := set(given.networks) - set(NETWORKS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(NETWORKS)}")
    if not given.peer_python.is_file():
        parser.error(f"no such interpreter: {given.peer_python}")
    logging.disable(logging.WARNING)
    compared = _comparisons(given.networks or tuple(NETWORKS), given.peer_python.absolute())
    if given.json:
        print(json.dumps({"schema": "toolkit.bench.litert/1", "networks": [asdict(one) for one in compared]}, indent=1))
        return
    for one in compared:
        _show(one)


def _show(one: Compared) -> None:
    right = "accuracy" if one.labelled else "agrees"
    print(f"{f'{one.network}, {one.precision}':38} {right:>9} {'size':>9} {'latency':>9}")
    for row in one.rows:
        figures = f"{row.right:>9.4f} {units.bytes_(row.size_bytes):>9} {units.seconds(row.latency_s):>9}"
        print(f"  {row.way:36} {row.note or figures}")
    for verdict in one.verdicts:
        print(f"  {outcome(verdict)}: {said(verdict)}")
    print(flush=True)


if __name__ == "__main__":
    main()
