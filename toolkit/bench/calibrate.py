"""Refit every stack that has measured rows: `python -m toolkit.bench.calibrate [--write] [TARGET ...]`.

Prints, for each stack, how far networks that were left out of the fit are missed, one network at a time and one
family at a time; with --write, stores the coefficients under targets/calibration.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

import targets
from targets.fitting import HeldOut, Measured, fit_stack, held_out
from targets.latency import LatencyFit
from targets.stack import Stack
from targets.support import place
from targets.target import Target, load_target, prior_of, target_names
from toolkit.bench.published import measured_rows, published_rows

__all__ = ["calibrate"]

_NUMBERS = re.compile(r"\[[^\[\]]*\]")  # a row of a matrix goes on one line
_FEWEST = 6  # rows below which a stack stays uncalibrated: its interval needs at least that


def calibrate(target: Target, rows: Sequence[Mapping[str, str]]) -> dict[str, LatencyFit]:
    """New coefficients for every stack of `target` with enough rows; a line of errors for each is printed."""
    fits = {}
    for stack in target.stacks.values():
        measured = [m for m in (_with_streaming(m, stack) for m in measured_rows(stack, rows)) if m is not None]
        if len(measured) < _FEWEST:
            continue
        prior = prior_of(target, stack.name)
        where = f"{stack.measured_as['device']}, {stack.measured_as['device_variant']}, {stack.measured_as['runtime']}"
        fits[stack.name] = fit_stack(measured, prior, where)
        by_network = held_out(measured, prior, lambda m: m.network)
        by_family = held_out(measured, prior, lambda m: m.family)
        print(f"{stack.id:40} {len(measured):3} rows  network {_row(by_network)}  family {_row(by_family)}", flush=True)
    return fits


def _with_streaming(row: Measured, stack: Stack) -> Measured | None:
    """Time outside the additive form; None for a network of which a part would run on the host."""
    if not stack.rules:
        return row
    if any(p.reason for p in place(row.workload, stack)):
        return None
    excess = max(0, row.workload.weight_bytes - stack.parameter_cache_bytes)
    return replace(row, extra_s=excess / stack.link_bytes_s)


def _row(left_out: HeldOut) -> str:
    errors = left_out.errors
    return (
        f"MAPE {left_out.mape:6.1%}, ±10 % {np.mean(errors <= 0.1):4.0%}, ±20 % {np.mean(errors <= 0.2):4.0%}, "
        f"80 % interval holds {left_out.coverage:4.0%}"
    )


def _store(name: str, fits: Mapping[str, LatencyFit]) -> None:
    path = Path(targets.__path__[0], "calibration", f"{name}.json")
    document = {stack: _document(fit) for stack, fit in sorted(fits.items())}
    text = json.dumps(document, indent=1, sort_keys=True)
    path.parent.mkdir(exist_ok=True)
    path.write_text(_NUMBERS.sub(lambda row: " ".join(row[0].split()), text) + "\n", "utf-8")


def _document(fit: LatencyFit) -> dict[str, Any]:
    data = asdict(fit)
    data["seen_classes"] = sorted(fit.seen_classes)
    rounded: dict[str, Any] = json.loads(json.dumps(data), parse_float=lambda text: float(f"{float(text):.5g}"))
    return rounded


def main() -> None:
    arguments = sys.argv[1:]
    rows = published_rows()
    for name in [a for a in arguments if not a.startswith("-")] or target_names():
        fits = calibrate(load_target(name), rows)
        if fits and "--write" in arguments:
            _store(name, fits)


if __name__ == "__main__":
    main()
