"""Published latencies, and the workloads of the networks they were taken on.

`rows/measured.csv` holds one published number a row, with its source, and `rows/onnxruntime.csv` our own.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files

from targets.fitting import Measured
from targets.stack import Stack
from targets.workload import Operator, Workload

__all__ = ["measured_rows", "published_rows", "workload_of"]

# Times on these stacks hold what the host does behind the network (boxes, masks), and the graphs here do not.
_HOST_PART = re.compile(r"ssd|efficientdet|yolo|unet|deeplab", re.IGNORECASE)
_SPLIT_RUNTIMES = frozenset({"TF-TRT"})

COLUMNS = ("device", "device_variant", "runtime", "precision", "threads", "batch")


def published_rows() -> list[dict[str, str]]:
    """Every row of the frozen tables."""
    folder = files("toolkit.bench").joinpath("rows")
    found = []
    for name in sorted(p.name for p in folder.iterdir() if p.name.endswith(".csv")):
        found += list(csv.DictReader(folder.joinpath(name).read_text("utf-8").splitlines()))
    return found


def measured_rows(stack: Stack, rows: Sequence[Mapping[str, str]]) -> Iterator[Measured]:
    """The rows that `stack` stands for and whose network is defined here."""
    from toolkit.bench.networks import canonical, family

    for row in rows:
        if not stack.measured_as or any(row[c] != stack.measured_as[c] for c in COLUMNS):
            continue
        name, latency_s = canonical(row["model"]), _latency_s(row)
        if name is None or latency_s is None or (_split(stack) and _HOST_PART.search(row["model"])):
            continue
        work = workload_of(name, row["input_shape"], stack.fuses)
        if work is not None:
            narrow = work.at_precision(stack.dtype)
            if stack.runtime == "onnxruntime" and stack.dtype == "int8":
                narrow = _between_conversions(work, narrow)
            yield Measured(name, family(row["model"]), narrow, latency_s)


def _between_conversions(work: Workload, narrow: Workload) -> Workload:
    """`narrow`, the integer form of `work`, as we measure it: it takes floats and gives floats."""
    before = [_conversion("QuantizeLinear", work.tensor_bytes[t], narrow.tensor_bytes[t]) for t in work.inputs]
    after = [_conversion("DequantizeLinear", narrow.tensor_bytes[t], work.tensor_bytes[t]) for t in work.outputs]
    return replace(narrow, operators=(*before, *narrow.operators, *after))


def _conversion(op_type: str, input_bytes: int, output_bytes: int) -> Operator:
    return Operator(
        name=op_type,
        op_type=op_type,
        op_class="elementwise",
        dtype="int8",
        input_bytes=input_bytes,
        output_bytes=output_bytes,
        weight_bytes=0,
    )


def _split(stack: Stack) -> bool:
    """Whether the host runs what comes after a network."""
    return bool(stack.rules) or stack.runtime in _SPLIT_RUNTIMES


def _latency_s(row: Mapping[str, str]) -> float | None:
    """Seconds for one inference: a batch's time is shared by its images."""
    batch = int(row["batch"]) if row["batch"].isdigit() else None
    if batch is None:
        return None
    if row["latency_ms"]:
        return float(row["latency_ms"]) / 1e3 / batch
    return 1 / float(row["fps"]) if row["fps"] else None


@cache
def workload_of(model: str, input_shape: str, fuses: frozenset[str]) -> Workload | None:
    """The work of a published network, grouped as a stack with `fuses` groups it; None where it is not defined."""
    from targets.graph import read_workload
    from toolkit.bench.graphs import graph_of

    graph = graph_of(model, input_shape)
    return read_workload(graph, fuses=fuses) if graph is not None else None
