"""Refit a stack to a user's own measurements, and keep the result where every later estimate finds it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from targets import overlay
from targets.errors import InvalidInput
from targets.fitting import Measured, predict
from targets.stack import Stack
from targets.target import Target, load_target, shipped_stack, shipped_target
from toolkit.calibration.reading import read
from toolkit.calibration.refit import FEWEST_NETWORKS, FEWEST_ROWS, Refit, own_part, refit, start_of
from toolkit.calibration.rows import Row, Rows, read_rows, split_version

__all__ = ["Calibration", "Errors", "calibrate", "forget"]


@dataclass(frozen=True)
class Errors:
    """How far predictions lie from what was measured, relative to it: mean, median, shares within 10 and 20 percent."""

    mape: float
    median: float
    within_10: float
    within_20: float

    @classmethod
    def of(cls, factors: Sequence[float]) -> Errors:
        """`factors` are measured / predicted."""
        errors = np.abs(1 / np.array(factors) - 1)
        return cls(
            float(errors.mean()), float(np.median(errors)), float(np.mean(errors <= 0.1)), float(np.mean(errors <= 0.2))
        )


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A stack as a user's measurements have it. `file` is None where nothing was written.

    `unchanged` are the predictions of the costs that the fit started from; `refit` holds those of networks left out.
    """

    stack: Stack
    started_from: str
    rows: Rows
    used: tuple[Row, ...]
    set_aside: tuple[tuple[int, str], ...]
    unchanged: tuple[float, ...]
    refit: Refit
    file: Path | None

    @property
    def coverage(self) -> Mapping[str, float | None]:
        """Share of rows inside the 80 % interval, by what was left out; None where nothing was left beside it."""
        return {"network": self.refit.by_network.coverage, "family": self.refit.by_family.coverage}

    @property
    def errors(self) -> Mapping[str, Errors]:
        """By what was left out of the fit."""
        return {
            "unchanged": Errors.of(self.unchanged),
            "network": Errors.of(self.refit.by_network.factors),
            "family": Errors.of(self.refit.by_family.factors),
        }

    def predictions(self) -> list[dict[str, Any]]:
        """Every row with its measured latency and those predicted without its network and its family, in seconds."""
        found = []
        for i, row in enumerate(self.used):
            found.append(
                {
                    "line": row.line,
                    "model": row.model,
                    "family": row.family,
                    "measured_s": row.latency_s,
                    "without_network_s": row.latency_s / self.refit.by_network.factors[i],
                    "without_family_s": row.latency_s / self.refit.by_family.factors[i],
                }
            )
        return found

    def to_json(self) -> dict[str, Any]:
        """A plain document; units are in the keys."""
        fit = self.refit.fit
        return {
            "schema": "toolkit.calibrate/1",
            "stack": self.stack.id,
            "runtime": self.stack.describe(),
            "measured_as": dict(self.stack.measured_as),
            "rows": fit.rows,
            "networks": fit.networks,
            "set_aside": [{"line": line, "reason": reason} for line, reason in self.set_aside],
            "started_from": self.started_from,
            "errors": {name: vars(errors) for name, errors in self.errors.items()},
            "coverage": dict(self.coverage),
            "predictions": self.predictions(),
            "provenance": self.stack.provenance,
            "file": str(self.file) if self.file else None,
        }


def calibrate(
    stack: str,
    rows: str | Path,
    *,
    dry_run: bool = False,
    progress: Callable[[str, float], None] = lambda step, done: None,
) -> Calibration:
    """Fit `stack` to the measurements in `rows`, and keep the fit in the configuration folder unless `dry_run`.

    The fit starts from the stack as it is shipped, whatever the user calibrated before.

    Args:
        stack: `target/stack`.
        rows: A table; see `toolkit.calibration.rows`.

    Raises:
        UnknownName: there is no such stack.
        InvalidInput: the table or a model is wrong, or holds too little.
    """
    shipped = shipped_stack(stack)
    target = shipped_target(shipped.target)
    table = read_rows(Path(rows), target, shipped)
    used, measured, aside = _measured(table, shipped, progress)
    _check_enough(table, measured, aside)
    progress("fitting", 0.9)
    start = start_of(target, shipped)
    found = refit(measured, start, _where(table, target, shipped))
    fields = _fields(table, target, shipped)
    file = None if dry_run else overlay.keep(shipped.target, shipped.name, found.fit, fields)
    load_target.cache_clear()
    return Calibration(
        stack=replace(shipped, latency=found.fit, own_calibration="used", **fields),
        started_from=shipped.provenance,
        rows=table,
        used=tuple(used),
        set_aside=tuple(aside),
        unchanged=tuple(row.latency_s / predict(row, start) for row in measured),
        refit=found,
        file=file,
    )


def forget(stack: str) -> bool:
    """Drop the user's calibrations of `stack`, to times and to counts; False where there is none.

    Raises:
        UnknownName: there is no such stack.
    """
    known = shipped_stack(stack)
    dropped = [overlay.forget(known.target, known.name, kind) for kind in (overlay.CALIBRATION, overlay.COUNTED)]
    load_target.cache_clear()
    return any(dropped)


def _measured(
    table: Rows, stack: Stack, progress: Callable[[str, float], None]
) -> tuple[list[Row], list[Measured], list[tuple[int, str]]]:
    """The rows that can be used with their work, and every line that cannot with the reason."""
    used, measured, aside = [], [], list(table.set_aside)
    for i, row in enumerate(table.rows):
        progress(f"reading {row.model}", 0.9 * i / len(table.rows))
        found = own_part(read(row, stack), stack)
        if found is None:
            aside.append((row.line, f"a part of {row.model} runs on the host of {stack.id}"))
        else:
            used.append(row)
            measured.append(found)
    return used, measured, sorted(aside)


def _check_enough(table: Rows, measured: Sequence[Measured], aside: Sequence[tuple[int, str]]) -> None:
    networks = len({row.network for row in measured})
    if len(measured) < FEWEST_ROWS or networks < FEWEST_NETWORKS:
        reasons = f"; {len(aside)} were set aside, line {aside[0][0]} for its {aside[0][1]}" if aside else ""
        raise InvalidInput(
            f"{table.file.name} holds {len(measured)} rows of {networks} networks for this stack{reasons}",
            hint=f"{FEWEST_ROWS} rows of {FEWEST_NETWORKS} networks are the least, and twenty a good number: "
            "`toolkit bench --write-rows` measures some",
        )


def _where(table: Rows, target: Target, stack: Stack) -> str:
    said = _measured_as(table, target, stack)
    return ", ".join(said[name] for name in ("device", "device_variant", "runtime") if said[name])


def _measured_as(table: Rows, target: Target, stack: Stack) -> dict[str, str]:
    """The columns of the rows that the stack now stands for; what a table does not say is as it was."""
    was, said = stack.measured_as, table.setting
    threads = "" if stack.threads is None else str(stack.threads)
    return {
        "device": said["device"] or was.get("device") or target.title,
        "device_variant": said["device_variant"],
        "runtime": said["runtime"] or was.get("runtime") or f"{stack.runtime} {stack.runtime_version}",
        "precision": stack.precision,
        "threads": said["threads"] or was.get("threads", threads),
        "batch": was.get("batch", str(stack.batch)),
    }


def _fields(table: Rows, target: Target, stack: Stack) -> dict[str, Any]:
    """What the stack is otherwise than in its profile: the version that was measured, and where."""
    version = split_version(table.setting["runtime"])[1]
    return {"runtime_version": version or stack.runtime_version, "measured_as": _measured_as(table, target, stack)}
