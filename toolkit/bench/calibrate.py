"""Refit every stack that has measured rows: `python -m toolkit.bench.calibrate [--write] [TARGET ...]`.

Prints, for each stack, how far networks that were left out of the fit are missed, one network at a time and one
family at a time; with --write, stores the coefficients under targets/calibration.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

import targets
from targets.coefficients import document_of, dumps
from targets.fitting import HeldOut
from targets.latency import LatencyFit
from targets.target import Target, prior_of, shipped_target, target_names
from toolkit.bench.arguments import add_targets
from toolkit.bench.published import measured_rows, published_rows
from toolkit.calibration.refit import FEWEST_ROWS, own_part, refit

__all__ = ["calibrate"]


def calibrate(target: Target, rows: Sequence[Mapping[str, str]]) -> dict[str, LatencyFit]:
    """New coefficients for every stack of `target` with enough rows; a line of errors for each is printed."""
    fits = {}
    for stack in target.stacks.values():
        measured = [m for m in (own_part(m, stack) for m in measured_rows(stack, rows)) if m is not None]
        if len(measured) < FEWEST_ROWS:
            continue
        where = f"{stack.measured_as['device']}, {stack.measured_as['device_variant']}, {stack.measured_as['runtime']}"
        found = refit(measured, prior_of(target, stack.name), where)
        fits[stack.name] = found.fit
        print(f"{stack.id:40} {len(measured):3} rows  network {_row(found.by_network)}  "
              f"family {_row(found.by_family)}", flush=True)  # fmt: skip
    return fits


def _row(left_out: HeldOut) -> str:
    errors = left_out.errors
    return (
        f"MAPE {left_out.mape:6.1%}, ±10 % {np.mean(errors <= 0.1):4.0%}, ±20 % {np.mean(errors <= 0.2):4.0%}, "
        f"80 % interval holds {left_out.coverage or 0:4.0%}"
    )


def _store(name: str, fits: Mapping[str, LatencyFit]) -> None:
    path = Path(targets.__path__[0], "calibration", f"{name}.json")
    path.parent.mkdir(exist_ok=True)
    path.write_text(dumps({stack: document_of(fit) for stack, fit in fits.items()}), "utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m toolkit.bench.calibrate", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    add_targets(parser)
    parser.add_argument("--write", action="store_true", help="store the coefficients under targets/calibration")
    given = parser.parse_args(arguments)
    rows = published_rows()
    for name in given.targets or target_names():
        fits = calibrate(shipped_target(name), rows)
        if fits and given.write:
            _store(name, fits)


if __name__ == "__main__":
    main()
