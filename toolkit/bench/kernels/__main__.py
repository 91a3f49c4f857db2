"""Every kernel on the shapes that matter: time, rate, times the floor, ratio to each peer, error.

    python -m toolkit.bench.kernels [--json | --markdown] [OPERATOR ...]

Rows that need a GPU say "not measured" where there is none; interpreted kernels are never timed. Each row is held
against float64 first; a row that is wrong has no time and no ratio. Ways of computing the same take turns, on a GPU
with a cold cache. The floor is what moving each input and output once, or the arithmetic, takes at the rates that a
copy and a large matrix product reach in the same run. On a GPU its own time is told: a host launches ahead of it.
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

from toolkit.bench.kernels.case import Row
from toolkit.bench.kernels.measuring import measure
from toolkit.bench.kernels.showing import MARKDOWN_HEAD, line, markdown_line

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
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--markdown", action="store_true", help="print the table that kernels/README.md keeps")
    given = parser.parse_args(arguments)
    rows = _rows(given.operators or OPERATORS)
    if given.json:
        print(json.dumps({"versions": _versions(), "rows": [asdict(row) for row in rows]}, indent=1))
        return 0
    print(", ".join(f"{name} {found}" for name, found in _versions().items()))
    if given.markdown:
        print(f"\n{MARKDOWN_HEAD}")
    for row in rows:
        print(markdown_line(row) if given.markdown else line(row), flush=True)
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
