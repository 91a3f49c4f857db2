"""ResNet-BK beside a transformer of as many parameters: time and memory against the length, and what both learn.

    python -m toolkit.bench.resnet_bk [--json] [--device cuda] [--precision bfloat16] [time | learn | clamps | lengths]

`time`: seconds a token of a forward and of a training step, and bytes a token, from 1,024 ids on, the number of tokens
in a step being the same throughout; the ratio of the largest to the smallest says how linear a model is. `learn`:
perplexity on Python's own documentation after equal tokens, for the options as well. `clamps`: the same with stability
settings off, at the usual rate and at ten times it. `lengths`: the longest sequence that 15 GB train on, without
bfloat16. On a CPU everything is small.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from toolkit.bench.printing import show
from toolkit.bench.resnet_bk.learning import Lesson, compare, without_clamps
from toolkit.bench.resnet_bk.scaling import Measured, measure
from toolkit.models.blueprints.config import parse
from toolkit.models.resnet_bk import Config
from toolkit.models.resnet_bk.memory import training_memory
from toolkit.models.resnet_bk.operators import HINT

_PARTS = ("time", "learn", "clamps", "lengths")
_BIG = {"width": 256, "blocks": 4, "heads": 32, "experts": 8, "hidden": 512}
_MIDDLE = {"width": 128, "blocks": 4, "heads": 32, "experts": 4, "hidden": 256}
_LENGTHS = {"cuda": tuple(2**k for k in range(10, 18)), "cpu": tuple(2**k for k in range(10, 14))}
_VARIANTS: dict[str, dict[str, object]] = {
    "resnet_bk": {},
    "learned links": {"links": "learned"},
    "2 scales": {"scales": 2},
    "half the sites": {"kept_share": 0.5},
    "int8": {"storage": "int8"},
    "ponder 3": {"ponder_steps": 3},
}


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m toolkit.bench.resnet_bk", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(_PARTS)}; all where none is named")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precision", choices=("float32", "float16", "bfloat16"), default="float32")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given = parser.parse_args(arguments)
    if unknown := set(given.parts) - set(_PARTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(_PARTS)}")
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("this machine has no GPU that torch can use: --device cpu")
    if HINT:
        print(f"plain torch alone is measured: {HINT}", file=sys.stderr)
    torch.set_num_threads(1)
    parts = given.parts or _PARTS
    found = {part: _rows(part, given) for part in _PARTS if part in parts}
    if given.json:
        print(json.dumps({"schema": "toolkit.bench.resnet_bk/1", **found}, indent=1))
        return 0
    for part, rows in found.items():
        show(part, rows)
    return 0


def _rows(part: str, given: argparse.Namespace) -> list[dict[str, Any]]:
    makers = {"time": _times, "learn": _learned, "clamps": _clamps, "lengths": _lengths}
    return [_said(part, row) for row in makers[part](given)]


def _said(part: str, row: dict[str, Any]) -> dict[str, Any]:
    """The row, after telling whoever waits."""
    print(f"{part}: {row.get('model', '')} {row.get('length', '')}", file=sys.stderr, flush=True)
    return row


def _times(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    on_gpu = given.device == "cuda"
    config, tokens = parse(Config, _BIG if on_gpu else {}), 2**17 if on_gpu else 2**13
    rows: list[Measured] = []
    for row in measure(config, _LENGTHS[given.device], tokens=tokens, device=torch.device(given.device),
                       precision=given.precision):  # fmt: skip
        rows.append(row)
        yield {**asdict(row), "forward_ratio": _ratio(rows, "forward_s"), "step_ratio": _ratio(rows, "step_s"),
               "memory_ratio": _ratio(rows, "peak_bytes")}  # fmt: skip


def _ratio(rows: list[Measured], figure: str) -> float | None:
    """The largest to the smallest of the model's rows so far."""
    values = [getattr(row, figure) for row in rows if row.model == rows[-1].model]
    return max(values) / min(values) if all(values) else None


def _lesson(given: argparse.Namespace) -> tuple[Config, Lesson]:
    if given.device == "cuda":
        return parse(Config, _MIDDLE), Lesson(
            windows=6000, epochs=3, device="cuda", precision=given.precision, asked=256
        )
    return Config(), Lesson(windows=1200, context=128, batch=8, rate=3e-3)


def _learned(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    yield from map(asdict, compare(*_lesson(given), _VARIANTS))


def _clamps(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    config, lesson = _lesson(given)
    for rate in (lesson.rate, 10 * lesson.rate):
        yield from map(asdict, without_clamps(config, replace(lesson, rate=rate)))


def _lengths(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What a GPU of 15 GB without bfloat16 trains on, one sequence at a time."""
    for precision in ("float16", "float32"):
        memory = training_memory(parse(Config, _BIG), half=precision == "float16")
        free = 15_000_000_000
        yield {"model": "resnet_bk", "precision": precision, "memory_bytes": free, "token_bytes": memory.token_bytes,
               "length": int((free - memory.fixed_bytes) / memory.token_bytes)}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
