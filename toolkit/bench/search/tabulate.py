"""Make a table of `tables` anew: `python -m toolkit.bench.search.tabulate NETWORK`.

Every row is a graph that is made, answered by onnxruntime and priced by the cost model. That takes minutes; rows that
an interrupted run had finished are read again from a file beside the table.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from passes.dataset import Array
from passes.onnxruntime import import_onnxruntime
from passes.program import Program
from targets.cost import estimate
from targets.grouping import ANCHORS
from targets.target import load_target
from toolkit.bench.search.candidates import floating, in_integers, narrowed
from toolkit.bench.search.tables import ROWS, Table, save
from toolkit.bench.trained import Task

__all__ = ["NETWORKS", "TARGETS", "Network", "Row", "tabulated"]

TARGETS = ("coral_tpu", "jetson_nano", "raspberry_pi_4")
_PRECISIONS = ("float", "int8")
_STORED = "raspberry_pi_4"
"""The target that says how large the weights are; they are on all."""
Config = Mapping[str, int | float | str]


@dataclass(frozen=True)
class Row:
    """One deployment: `latency_s` by target, NaN where it does not run."""

    right: int
    weight_bytes: int
    latency_s: Mapping[str, float]


@dataclass
class Network:
    """A network and the genes of its deployments.

    Args:
        kept: Channels that may stay, of each group of `candidates.shrinkable`, by gene.
        layers: Convolutions and matrix products with weights, in their order, that a precision gene speaks for.
        trunk: Whether channels go that are sums of several layers.
    """

    name: str
    make: Callable[[], Task]
    kept: Mapping[str, tuple[int, ...]]
    layers: Mapping[str, range]
    trunk: bool = False

    @property
    def genes(self) -> dict[str, tuple[int | float | str, ...]]:
        """Values by gene."""
        return {**self.kept, **dict.fromkeys(self.layers, _PRECISIONS)}

    @cached_property
    def task(self) -> Task:
        """The network and its data."""
        return self.make()

    @cached_property
    def floating(self) -> Program:
        """The float graph with all its channels."""
        return floating(self.task)

    @cached_property
    def asked(self) -> tuple[list[Mapping[str, Array]], NDArray[np.int64]]:
        """Samples and their labels."""
        assert self.task.asked.labels is not None
        return list(self.task.asked), np.asarray(self.task.asked.labels)

    def rows(self, done: Collection[int] = ()) -> Iterator[tuple[int, Row]]:
        """Every row by its number, but those `done`."""
        precisions = list(product(_PRECISIONS, repeat=len(self.layers)))
        for k, width in enumerate(product(*self.kept.values())):
            left = [n for n in range(len(precisions)) if k * len(precisions) + n not in done]
            if left:
                thin = narrowed(self.floating, width, trunk=self.trunk)
                yield from ((k * len(precisions) + n, self._row(thin, precisions[n])) for n in left)

    def row(self, number: int) -> Row:
        """One row alone."""
        kinds = list(product(_PRECISIONS, repeat=len(self.layers)))
        width = list(product(*self.kept.values()))[number // len(kinds)]
        return self._row(narrowed(self.floating, width, trunk=self.trunk), kinds[number % len(kinds)])

    def _row(self, thin: Program, precision: Sequence[str]) -> Row:
        weighted = [n for n in thin.graph if n.op_type in ANCHORS and _is_constant(n.inputs[1])]
        chosen = dict(zip(self.layers, precision, strict=True))
        in_float = [places for gene, places in self.layers.items() if chosen[gene] == "float"]
        is_float = len(in_float) == len(self.layers)
        floats = [str(weighted[k].name) for places in in_float for k in places]
        made = thin if is_float else in_integers(thin, self.task, floats)
        samples, labels = self.asked
        answers = np.array([int(self.task.decide(next(iter(made.run(sample).values())))[0]) for sample in samples])
        latency = {name: self._latency_s(made, name, is_float) for name in TARGETS}
        stored = estimate(made.static_model, load_target(_STORED).stack(), as_is=True, quick=True).weight_bytes
        return Row(int((answers == labels).sum()), stored, latency)

    def _latency_s(self, made: Program, target: str, is_float: bool) -> float:
        stack = load_target(target).stack()
        has_integers = stack.precision == "int8"
        if not (is_float or has_integers):
            return float("nan")
        return estimate(made.static_model, stack, as_is=has_integers, quick=True).latency_s


def _is_constant(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is not None


def _digits() -> Task:
    from toolkit.bench.trained import TASKS

    found = TASKS["digits"]()
    assert found is not None
    return found


def _transformer() -> Task:
    from toolkit.bench.search.transformer import task

    return task()


NETWORKS = {
    "digits": Network(
        "digits", _digits, {"trunk.kept": tuple(range(1, 25)), "head.kept": tuple(range(2, 49, 2))},
        {"trunk.precision": range(2), "down.precision": range(2, 4), "head.precision": range(4, 6)},
        trunk=True,
    ),
    "transformer": Network(
        "transformer", _transformer, {f"blocks.{k}.kept": tuple(range(32, 193, 32)) for k in range(3)},
        {"blocks.0.precision": range(5), "blocks.1.precision": range(5, 9), "blocks.2.precision": range(9, 14)},
    ),
}  # fmt: skip


def tabulated(network: Network, journal: Path) -> Table:
    """Evaluate every row that `journal` does not hold, and put it there."""
    found = _read(journal)
    total = int(np.prod([len(values) for values in network.genes.values()]))
    with journal.open("a", encoding="utf-8") as lines:
        lines.write("\n")  # ends a line that was cut off
        for number, row in network.rows(found):
            found[number] = row
            lines.write(json.dumps({"number": number, **asdict(row)}) + "\n")
            lines.flush()
            if len(found) % 100 == 0:
                print(f"{network.name}: {len(found)} of {total}", file=sys.stderr, flush=True)
    rows = [found[number] for number in range(total)]
    right = np.array([row.right for row in rows], np.uint16)
    stored = np.array([row.weight_bytes for row in rows], np.int32)
    latency = {name: np.array([row.latency_s[name] for row in rows], np.float32) for name in TARGETS}
    provenance = {
        "model": network.task.program.digest, "asked": network.task.asked.digest,
        "calibration": network.task.calibration.digest, "onnxruntime": import_onnxruntime().__version__,
        **{name: load_target(name).stack().id for name in TARGETS},
    }  # fmt: skip
    return Table(network.name, network.genes, right, len(network.asked[1]), stored, latency, provenance)


def _read(journal: Path) -> dict[int, Row]:
    """Rows by number; a line that was cut off is none."""
    found: dict[int, Row] = {}
    for line in journal.read_text("utf-8").splitlines() if journal.exists() else ():
        with suppress(json.JSONDecodeError):
            document = json.loads(line)
            number = document.pop("number")
            found[number] = Row(**document)
    return found


def main(arguments: list[str] | None = None) -> None:
    """Write a table, or show a row of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", choices=[*NETWORKS, "efficientnet-lite0"])
    wanted = parser.parse_args(arguments)
    if wanted.network in NETWORKS:
        journal = ROWS / f"{wanted.network}.jsonl"
        save(tabulated(NETWORKS[wanted.network], journal))
        journal.unlink()
    else:
        from toolkit.bench.search.segments import table

        save(table())


if __name__ == "__main__":
    main()
