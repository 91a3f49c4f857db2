"""Fit a stack to counted instructions, and keep the fit where every later estimate finds it. A count is no time.

The table has the columns `path` (the ONNX file, beside the table or below) and `instructions`; `stack`, `model` and
`family` are read where they are there. `python -m toolkit.bench.instructions --count` makes one on emulated cores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from targets import overlay
from targets.counts import fit_counts, prior_counts
from targets.errors import InvalidInput
from targets.fitting import HeldOut, Measured
from targets.latency import LatencyFit
from targets.stack import Stack
from targets.target import shipped_stack
from toolkit.calibration.reading import read
from toolkit.calibration.refit import FEWEST_NETWORKS, FEWEST_ROWS
from toolkit.calibration.rows import Row, read_table

__all__ = ["COLUMNS", "CountCalibration", "calibrate_counts", "holds_counts"]

COLUMNS = (
    "stack", "model", "family", "cpu", "runtime", "instructions", "memory", "branch", "integer", "vector", "other",
    "path",
)  # fmt: skip
"""Of a table that is written here."""

_HINT = "one network a line, with its path and its count: see `python -m toolkit.bench.instructions --help`"


@dataclass(frozen=True, kw_only=True)
class CountCalibration:
    """A stack's instructions as a table has them. `file` is None where nothing was written."""

    stack: Stack
    rows: Sequence[Measured]
    set_aside: int
    fit: LatencyFit
    by_network: HeldOut
    by_family: HeldOut
    file: Path | None

    @property
    def errors(self) -> Mapping[str, HeldOut]:
        """By what was left out of the fit."""
        return {"network": self.by_network, "family": self.by_family}

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": "toolkit.calibrate.counts/1",
            "stack": self.stack.id,
            "rows": self.fit.rows,
            "networks": self.fit.networks,
            "set_aside": self.set_aside,
            "errors": {name: found.mape for name, found in self.errors.items()},
            "coverage": {name: found.coverage for name, found in self.errors.items()},
            "predictions": [
                {
                    "model": row.network,
                    "family": row.family,
                    "instructions": row.latency_s,
                    "without_network": row.latency_s / self.by_network.factors[i],
                    "without_family": row.latency_s / self.by_family.factors[i],
                }
                for i, row in enumerate(self.rows)
            ],
            "provenance": self.fit.provenance,
            "file": str(self.file) if self.file else None,
        }


def holds_counts(file: Path) -> bool:
    """Whether the table is one of instructions, not of latencies.

    Raises:
        InvalidInput: it is no table.
    """
    table = read_table(file, ())
    return bool(table) and "instructions" in table[0][1] and "latency_ms" not in table[0][1]


def calibrate_counts(
    stack: str,
    file: Path,
    *,
    dry_run: bool = False,
    progress: Callable[[str, float], None] = lambda step, done: None,
) -> CountCalibration:
    """Fit the instructions of `stack` to a table, and keep the fit in the configuration folder unless `dry_run`.

    Raises:
        UnknownName: there is no such stack.
        InvalidInput: the table or a model is wrong, or holds too little.
    """
    known = shipped_stack(stack)
    lines = read_table(file, ("path", "instructions"))
    own = [(line, cells) for line, cells in lines if cells.get("stack", "") in ("", known.id, known.name)]
    rows = []
    for i, (line, cells) in enumerate(own):
        progress(f"reading {cells['path']}", 0.9 * i / len(own))
        rows.append(read(_row(file, line, cells), known))
    networks = len({row.network for row in rows})
    if len(rows) < FEWEST_ROWS or networks < FEWEST_NETWORKS:
        aside = f"; {len(lines) - len(own)} are of other stacks" if len(own) < len(lines) else ""
        raise InvalidInput(
            f"{file.name} holds {len(rows)} counts of {networks} networks for this stack{aside}",
            hint=f"{FEWEST_ROWS} rows of {FEWEST_NETWORKS} networks are the least: "
            f"python -m toolkit.bench.instructions --count {file.name} {known.id}",
        )
    progress("fitting", 0.9)
    fit, by_network, by_family = fit_counts(rows, prior_counts(), known)
    kept = None if dry_run else overlay.keep(known.target, known.name, fit, {}, overlay.COUNTED)
    return CountCalibration(
        stack=known,
        rows=rows,
        set_aside=len(lines) - len(own),
        fit=fit,
        by_network=by_network,
        by_family=by_family,
        file=kept,
    )


def _row(file: Path, line: int, cells: Mapping[str, str]) -> Row:
    path = file.parent / cells["path"]
    if not path.is_file():
        raise InvalidInput(f"{file.name}, line {line}: there is no {cells['path']} beside the table", hint=_HINT)
    try:
        number = float(cells["instructions"])
    except ValueError:
        number = 0.0
    if not (isfinite(number) and number >= 1):
        raise InvalidInput(
            f"{file.name}, line {line}: {cells['instructions']!r} is no number of instructions", hint=_HINT
        )
    name = cells.get("model") or path.stem
    return Row(
        line=line,
        model=name,
        family=cells.get("family") or name,
        path=path,
        input_shape=cells.get("input_shape", ""),
        latency_s=number,
    )
