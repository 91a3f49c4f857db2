"""What runs on a Raspberry Pi, side by side: each stack's artefact on an emulated core, with size, memory and answers.

    python -m toolkit.bench.emulated [--json] [--write ROWS.csv] [--stack STACK]... [NETWORK ...]

Trained networks are compiled for each stack and asked what they were not calibrated on, on QEMU's core of the target:
SQNR of all answers against float32, share of equal decisions, accuracy where there are labels, bytes of the file, of
all memory and of the network in it, instructions of one inference and their kinds. Counts are the same on every run and
are no times. Behind them stands what a bundle for the stack ships to be run without Python: in C with onnxruntime's
library beside it, linked to the network, or frozen; its bytes, and whether its self-test passes there. `--write` keeps
the counts as rows: a network, its multiply-accumulates, the processor. Wants QEMU, for all but programs `toolkit doctor
--install-emulator`, and PyInstaller for the desktop's runner.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import platform
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from itertools import islice
from math import isinf
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from passes.compare import errors, sqnr_db
from passes.dataset import Array, Dataset, Sample
from passes.onnxruntime import Session
from targets.errors import MissingDependency, ToolkitError
from targets.graph import read_workload
from targets.target import load_stack, load_target
from toolkit import units
from toolkit.backends.ahead_of_time import Instructions
from toolkit.bench.peers import plain_export
from toolkit.bench.trained import TASKS, Task
from toolkit.bundle.bundle import Bundle
from toolkit.driver import compile_model
from toolkit.sources import load_source
from toolkit.standalone.runners import machine_of, makes_programs
from toolkit.verify.emulation import emulated_answers, runner_test

__all__ = ["NETWORKS", "STACKS", "Row", "emulated_rows"]

STACKS = (
    "raspberry_pi_4/onnxruntime-fp32",
    "raspberry_pi_4/onnxruntime-int8",
    "raspberry_pi_4/tflite-int8",
    "raspberry_pi_4/program-fp32",
    "raspberry_pi_4/program-int8",
    "raspberry_pi_4/program-armv7-int8",
    "coral_dev_board/pcie",
    "jetson_nano/tensorrt-fp16",
    "desktop_cpu/onnxruntime-fp32",
)
_MOST_MACS = 4e9
"""Of all samples that a network is asked on an emulated core: some seconds."""
_MOST_SAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class Row:
    """One network on one stack; `note` says why there are no figures.

    `macs` are those of one inference of the float network, `agreement` is the share of decisions that are float32's,
    `float_accuracy` what float32 reaches on the same samples. `runner` says of which kind what is shipped is, and
    `runner_bytes` are all that it needs beside the graph; `runner_passed` is None where there is none.
    """

    network: str
    stack: str
    file: str = ""
    cpu: str = ""
    runtime: str = ""
    macs: int = 0
    samples: int = 0
    size_bytes: int = 0
    memory_bytes: int = 0
    network_bytes: int = 0
    instructions: Instructions | None = None
    sqnr_db: float | None = None
    agreement: float | None = None
    accuracy: float | None = None
    float_accuracy: float | None = None
    runner: str = ""
    runner_bytes: int = 0
    runner_passed: bool | None = None
    note: str = ""


def _onet() -> Task | None:
    """The last network of MTCNN, asked about faces and what are none; its scores come first."""
    spec = find_spec("facenet_pytorch")
    if spec is None or spec.origin is None or not find_spec("skimage"):
        return None
    import sys

    import torch
    from skimage import data
    from skimage.transform import resize

    stub: Any = types.ModuleType("parts_of_mtcnn.utils.detect_face")  # its package imports torchvision
    stub.detect_face = stub.extract_face = None
    names = ("parts_of_mtcnn", "parts_of_mtcnn.utils")
    sys.modules |= {name: types.ModuleType(name) for name in names} | {stub.__name__: stub}
    own = spec_from_file_location("parts_of_mtcnn.mtcnn", Path(spec.origin).parent / "models" / "mtcnn.py")
    assert own is not None
    assert own.loader is not None
    module = module_from_spec(own)
    own.loader.exec_module(module)

    class ScoresFirst(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = module.ONet()

        def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
            boxes, marks, scores = self.network(image)
            return scores, boxes, marks

    pictures = resize(data.lfw_subset(), (200, 48, 48))  # type: ignore[no-untyped-call]
    images = np.repeat((pictures[:, None] * 255 - 127.5) / 128, 3, axis=1).astype(np.float32)
    labels = np.repeat([1, 0], 100)  # a hundred faces, then a hundred that are none
    known = np.arange(200) % 4 == 0
    program = load_source((ScoresFirst().eval(), (torch.zeros(1, 3, 48, 48),))).program
    name = program.signature.inputs[0].name
    return Task(
        "mtcnn-onet",
        program,
        Dataset.of_arrays("faces and none", {name: images[known]}),
        Dataset.of_arrays("other faces and none", {name: images[~known]}, labels[~known]),
    )


NETWORKS: Mapping[str, Callable[[], Task | None]] = {
    "efficientnet-lite0": TASKS["efficientnet-lite0"],
    "mtcnn-onet": _onet,
    "mnist-5k": TASKS["mnist-5k"],
    "digits": TASKS["digits"],
    "ItalyPowerDemand": TASKS["ItalyPowerDemand"],
}
"""Each is None where its package is not installed; the last is a series of one dimension."""


def emulated_rows(networks: Sequence[str] = tuple(NETWORKS), stacks: Sequence[str] = STACKS) -> Iterator[Row]:
    """A row for each network and stack."""
    for name in networks:
        task = NETWORKS[name]()
        if task is None:
            yield Row(network=name, stack="", note="what it needs is not installed: see README")
            continue
        exported = plain_export(task.program)
        for stack in stacks:
            try:
                yield _row(task, exported, stack)
            except ToolkitError as refusal:
                yield Row(network=name, stack=stack, note=f"{refusal.problem}; {refusal.hint}")


def _row(task: Task, exported: bytes, stack: str) -> Row:
    target, _, name = stack.partition("/")
    with TemporaryDirectory() as folder:
        graph = Path(folder, f"{task.name}.onnx")
        graph.write_bytes(exported)
        program = load_source(graph).program
        macs = read_workload(program.static_model).macs
        truth = Session(exported)
        key = next(iter(truth.inputs()))
        bundle, note = _compiled(graph, f"{target}/{name}", _renamed(task.calibration, key), Path(folder, "bundle"))
        count = max(1, min(len(task.asked), _MOST_SAMPLES, int(_MOST_MACS / max(macs, 1))))
        samples = [{key: next(iter(sample.values()))} for sample in islice(task.asked, count)]
        file, made = emulated_answers(bundle, samples)
        size = (bundle.path / file).stat().st_size
        tested = runner_test(bundle)
    wanted = [truth(sample) for sample in samples]
    labels = None if task.asked.labels is None else task.asked.labels[:count]
    first = next(iter(wanted[0]))
    decided, right = (_decided(task, first, answers) for answers in (made.answers, wanted))
    return Row(
        network=task.name,
        stack=stack,
        file=file,
        cpu=made.cpu,
        runtime=made.runtime,
        macs=macs,
        samples=count,
        size_bytes=size,
        memory_bytes=made.memory_bytes,
        network_bytes=made.network_bytes,
        instructions=made.instructions,
        sqnr_db=_worst_db(wanted, made.answers),
        agreement=float(np.mean(decided == right)),
        accuracy=None if labels is None else float(np.mean(decided == labels)),
        float_accuracy=None if labels is None else float(np.mean(right == labels)),
        runner=_kind(stack) if tested else note,
        runner_bytes=tested.shipped_bytes if tested else 0,
        runner_passed=tested.passed if tested else None,
    )


def _compiled(graph: Path, stack: str, data: Dataset, output: Path) -> tuple[Bundle, str]:
    """The bundle with its runner; without one, and why, where the runner cannot be made."""
    target, _, name = stack.partition("/")
    make = partial(compile_model, graph, target=target, stack=name, data=data, output=output)
    try:
        return make(standalone=True), ""
    except MissingDependency as refusal:
        return make(), refusal.problem


def _kind(stack: str) -> str:
    known = load_stack(stack)
    if makes_programs(known):
        return "linked"
    return "frozen" if machine_of(load_target(known.target)).architecture == platform.machine() else "in C"


def _renamed(data: Dataset, name: str) -> Dataset:
    """The same samples under the name that the graph gives its input."""
    return replace(data, read=lambda: ({name: next(iter(sample.values()))} for sample in data), identity=None)


def _decided(task: Task, name: str, answers: Sequence[Sample]) -> Array:
    return np.array([task.decide(answer[name]).item() for answer in answers])


def _worst_db(wanted: Sequence[Sample], given: Sequence[Mapping[str, Array]]) -> float | None:
    """Of the output that fares worst; None where all are identical."""
    found = []
    for name in wanted[0]:
        parts = [errors(want[name], have[name])[:2] for want, have in zip(wanted, given, strict=True)]
        found.append(sqnr_db(sum(p[0] for p in parts), sum(p[1] for p in parts)))
    return None if isinf(min(found)) else min(found)


# ---- the command


_COLUMNS = ("network", "stack", "cpu", "runtime", "macs", "size_bytes", "network_bytes")


def write_rows(rows: Sequence[Row], path: Path) -> None:
    """Instruction counts as a table for who fits a cost model; rows without counts are left out."""
    kinds = [field.name for field in fields(Instructions)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*_COLUMNS, "instructions", *kinds])
        for row in rows:
            if counted := row.instructions:
                known = [getattr(row, name) for name in _COLUMNS]
                writer.writerow([*known, counted.total, *(getattr(counted, kind) for kind in kinds)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "networks", nargs="*", metavar="NETWORK", help=f"of {', '.join(NETWORKS)}; all where none is named"
    )
    parser.add_argument("--stack", action="append", default=[], metavar="STACK", help=f"of {', '.join(STACKS)}")
    parser.add_argument("--write", type=Path, metavar="FILE", help="keep the counts as .csv")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given = parser.parse_args()
    if unknown := set(given.networks) - set(NETWORKS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(NETWORKS)}")
    logging.disable(logging.WARNING)
    rows = []
    for row in emulated_rows(given.networks or tuple(NETWORKS), given.stack or STACKS):
        rows.append(row)
        if not given.json:
            _show(row, first=len(rows) == 1)
    if given.json:
        print(json.dumps({"schema": "toolkit.bench.emulated/1", "rows": [asdict(row) for row in rows]}, indent=1))
    if given.write:
        write_rows(rows, given.write)


def _show(row: Row, *, first: bool) -> None:
    if first:
        print(
              f"{'network':19} {'stack':34} {'cpu':10} {'size':>8} {'memory':>8} {'network':>8} {'instructions':>12} "
              f"{'a MAC':>6} {'vector':>6} {'SQNR':>9} {'agrees':>7} {'right':>6} {'float':>6} {'runner':>9}"
        )  # fmt: skip
    print(f"{row.network:19} {row.stack:34} {row.note or _figures(row)}", flush=True)


def _figures(row: Row) -> str:
    counted = row.instructions
    right = f"{row.accuracy:>6.3f} {row.float_accuracy:>6.3f}" if row.accuracy is not None else f"{'-':>6} {'-':>6}"
    counts, vector = f"{'-':>12} {'-':>6}", "-"
    if counted:
        counts = f"{units.count(counted.total, ''):>12} {counted.total / max(row.macs, 1):>6.2f}"
        vector = "-" if counted.other == counted.total else f"{counted.vector / counted.total:.0%}"
    drift = units.decibels(np.inf if row.sqnr_db is None else row.sqnr_db)
    return (
        f"{row.cpu:10} {units.bytes_(row.size_bytes):>8} {units.bytes_(row.memory_bytes):>8} "
        f"{units.bytes_(row.network_bytes):>8} {counts} {vector:>6} {drift:>9} {row.agreement:>7.3f} {right}  "
        f"{_shipped(row)}"
    )


def _shipped(row: Row) -> str:
    if row.runner_passed is None:
        return row.runner or "-"
    return f"{row.runner}, {units.bytes_(row.runner_bytes)}{'' if row.runner_passed else ', FAILS its self-test'}"


if __name__ == "__main__":
    main()
