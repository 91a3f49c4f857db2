"""Every kernel on the shapes that matter: time, rate, ratio to each peer, share of the floor, error.

    python -m toolkit.bench.kernels [--json] [OPERATOR ...]

Rows that need a GPU say "not measured" where there is none; interpreted kernels are never timed. Each row is held
against float64 first; a row that is wrong has no time and no ratio. Ways of computing the same take turns, on a GPU
with a cold cache. The floor is what moving each input and output once, or the arithmetic, takes at the rates that a
copy and a large matrix product reach in the same run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version

import torch

from toolkit import units
from toolkit.bench.kernels.case import Row
from toolkit.bench.kernels.measuring import measure

OPERATORS = (
    "attention",
    "bk_core",
    "correlation",
    "effective_rank",
    "moe",
    "quantized_linear",
)
"""By the file of their cases."""


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m toolkit.bench.kernels", description=__doc__.partition("\n")[0])
    parser.add_argument("operators", nargs="*", choices=[[], *OPERATORS], metavar="OPERATOR")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    rows = _rows(given.operators or OPERATORS)
    if given.json:
        print(json.dumps({"versions": _versions(), "rows": [asdict(row) for row in rows]}, indent=1))
        return 0
    print(", ".join(f"{name} {found}" for name, found in _versions().items()))
    for row in rows:
        print(_line(row), flush=True)
    return 0


def _rows(operators: Sequence[str]) -> Iterator[Row]:
    for name in operators:
        yield from map(measure, import_module(f"toolkit.bench.kernels.{name}").cases())


def _versions() -> dict[str, str]:
    found = {"torch": str(torch.__version__)}
    try:
        found["triton"] = version("triton")
    except PackageNotFoundError:
        found["triton"] = "absent"
    if torch.cuda.is_available():
        found |= {"device": torch.cuda.get_device_name(), "CUDA": str(torch.version.cuda)}
    return found


def _line(row: Row) -> str:
    head = f"{row.operator:<18} {row.shape:<40} {row.device:<8}"
    if row.time is None:
        return f"{head} {row.note}"
    rate = units.count(row.flop_s, "FLOP/s") if row.flop_s else units.count(row.bytes_s, "B/s")
    share = f"{row.floor_s / row.time.median_s:.0%} of the floor's rate" if row.floor_s else ""
    ratios = ", ".join(_ratio(name, row) for name in row.ratios)
    return (
        f"{head} {units.seconds(row.time.median_s):>9} [{units.seconds(row.time.lower_s)}, "
        f"{units.seconds(row.time.upper_s)}] {rate:>14}  {share}  {ratios}"
        f"  error {row.error:.1e} of {row.allowed_error:.1e}"
    )


def _ratio(name: str, row: Row) -> str:
    low, middle, high = row.ratios[name]
    goal = f", goal {row.goals[name]:g}x" if name in row.goals else ""
    return f"{middle:.2f}x {name} [{low:.2f}, {high:.2f}{goal}]"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
