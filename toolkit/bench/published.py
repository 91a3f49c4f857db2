"""Published latencies, and the workloads of the networks they were taken on.

`rows/measured.csv` holds one published number a row, with its source. A network is built on torch's meta device,
exported and read into a Workload for every way of fusing that a stack of the rows has; that takes seconds a network,
so workloads are kept in the cache folder, keyed by the code that makes them.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

from targets.fitting import Measured
from targets.stack import Stack
from targets.workload import Operator, Workload
from toolkit.cache import cache_folder

__all__ = ["measured_rows", "published_rows", "workload_of"]

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
        if name is None or latency_s is None:
            continue
        work = workload_of(row["model"], row["input_shape"], stack.fuses)
        if work is not None:
            yield Measured(
                f"{name}@{row['input_shape']}", family(row["model"]), work.at_precision(stack.dtype), latency_s
            )


def _latency_s(row: Mapping[str, str]) -> float | None:
    """Seconds for one inference: a batch's time is shared by its images."""
    batch = int(row["batch"]) if row["batch"].isdigit() else None
    if batch is None:
        return None
    if row["latency_ms"]:
        return float(row["latency_ms"]) / 1e3 / batch
    return 1 / float(row["fps"]) if row["fps"] else None


def workload_of(model: str, input_shape: str, fuses: frozenset[str]) -> Workload | None:
    """The work of a published network, grouped as a stack with `fuses` groups it; None where it is not defined."""
    path = _folder() / f"{hashlib.sha256(f'{model}|{input_shape}|{sorted(fuses)}'.encode()).hexdigest()[:24]}.json"
    if not path.is_file():
        work = _read(model, input_shape, fuses)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(work) if work else None, default=sorted), "utf-8")
        return work
    data = json.loads(path.read_text("utf-8"))
    return _parse(data) if data else None


_graphs: dict[tuple[str, str], object] = {}  # the last exported graph: stacks ask for the same one with other fusions


def _read(model: str, input_shape: str, fuses: frozenset[str]) -> Workload | None:
    from targets.graph import read_workload

    key = model, input_shape
    if key not in _graphs:
        _graphs.clear()
        _graphs[key] = _export(model, input_shape)
    graph = _graphs[key]
    return read_workload(graph, fuses=fuses) if graph is not None else None  # type: ignore[arg-type]


def _export(model: str, input_shape: str) -> object | None:
    import torch

    from passes.onnx_level.fold_constants import fold
    from passes.quiet import quiet_libraries
    from toolkit.bench.networks import build

    with torch.device("meta"):
        built = build(model, input_shape)
    if built is None:
        return None
    network, shape = built
    network.to_empty(device="cpu")  # the weights' values do not matter, but the exporter wants to see some
    with quiet_libraries(), torch.no_grad():
        program = torch.export.export(network, (torch.zeros(1, *shape[1:]),), strict=False)
        result = torch.onnx.export(program, (), dynamo=True, opset_version=18, optimize=False, verbose=False)
        assert result is not None
        fold(result.model, max_elements=4096)
    return result.model


def _folder() -> Path:
    """Where workloads are kept: one folder for each state of the code that makes them."""
    import targets
    from toolkit.bench import networks

    state = hashlib.sha256()
    sources = [Path(targets.__path__[0], n) for n in ("graph.py", "grouping.py", "operators.py", "workload.py")]
    for path in [*sources, *sorted(Path(networks.__path__[0]).glob("*.py"))]:
        state.update(path.read_bytes())
    return cache_folder() / "workloads" / state.hexdigest()[:16]


def _parse(data: dict[str, Any]) -> Workload:
    operators = tuple(Operator(**_tupled(op)) for op in data.pop("operators"))
    return Workload(operators=operators, float_tensors=frozenset(data.pop("float_tensors")), **_tupled(data))


def _tupled(data: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
