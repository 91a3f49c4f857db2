"""Attention over adaptive tiles beside dense attention: what it keeps, what it takes.

    python -m toolkit.bench.tiled_attention [--json] [--device cuda] [--scores dot,metric] [--seeds 5] [PART ...]

`recall`, `copy`, `induction`, `passkey`, `listops`, `pathfinder`: networks trained dense and deployed with fewer and
fewer tiles, beside a transformer by torch's fused attention and other sparse attentions; see `tasks.py`. The last three
want a GPU; where no part is named, recall alone is asked. `characters`: the same on text, without the sparse ones; on a
GPU the network is a larger one.
`time`, `memory`: the layer at 1,024 to 8,192 tokens on one thread, beside dense attention unfused and fused; seconds in
turns, live bytes counted; `resident`: what the system says of that, each way in a process of its own. `threads`: the
layer on one thread and on all. `device`: 1/8 of the tiles at 16,384 tokens by the block-sparse kernel, beside flash
attention; on a GPU alone. Training is checkpointed in the cache folder.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from toolkit.bench.printing import report
from toolkit.bench.tiled_attention import speed
from toolkit.bench.tiled_attention.answers import answered
from toolkit.bench.tiled_attention.device import on_device
from toolkit.bench.tiled_attention.resident import resident
from toolkit.bench.tiled_attention.tasks import TASKS
from toolkit.bench.tiled_attention.text import text

_LENGTHS = (1024, 2048, 4096, 8192)
_SCORES = ("dot", "metric", "fidelity", "hyperbolic", "born")
_FASTER_FROM, _UNDER_FROM, _UNDER = 4096, 2048, 0.6


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m toolkit.bench.tiled_attention", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(_PARTS)}")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of the tasks, characters and device")
    parser.add_argument("--scores", default="dot,metric", help=f"that are trained, of {','.join(_SCORES)}")
    parser.add_argument("--seeds", type=int, default=5, help="of each task")
    parser.add_argument("--workers", type=int, default=1, help="processes that train a task at the same time")
    parser.add_argument("--lengths", type=int, nargs="+", default=_LENGTHS, help="of the parts time and memory")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given = parser.parse_args(arguments)
    if unknown := set(given.parts) - set(_PARTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(_PARTS)}")
    for name, value in {"length": min(given.lengths), "number of seeds": given.seeds,
                        "number of workers": given.workers}.items():  # fmt: skip
        if value < 1:
            parser.error(f"a {name} of {value}: choose 1 or more")
    given.scores = given.scores.split(",")
    if wrong := set(given.scores) - set(_SCORES):
        parser.error(f"unknown scores: {', '.join(sorted(wrong))}; known: {', '.join(_SCORES)}")
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("this machine has no GPU that torch can use: --device cpu")
    found = {part: _said(part, make(given)) for part, make in _PARTS.items() if part in (given.parts or _USUAL)}
    report("tiled_attention", found, _judged(found), as_json=given.json)
    return 0


def _said(part: str, rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows, after telling whoever waits."""
    print(f"{part} ...", file=sys.stderr, flush=True)
    return [dict(row) for row in rows]


def _answered(task: str, given: argparse.Namespace) -> Iterable[Mapping[str, Any]]:
    return map(asdict, answered(task, given.scores, given.seeds, workers=given.workers, device=given.device))


_PARTS: Mapping[str, Callable[[argparse.Namespace], Iterable[Mapping[str, Any]]]] = {
    **{task: partial(_answered, task) for task in TASKS},
    "characters": lambda given: map(asdict, text(given.scores, device=given.device)),
    "time": lambda given: map(asdict, speed.times(given.lengths)),
    "memory": lambda given: map(asdict, speed.memory(given.lengths)),
    "resident": lambda given: map(asdict, resident([n for n in given.lengths if n >= _UNDER_FROM])),
    "threads": lambda given: speed.thread_times(max(given.lengths), sorted({1, os.cpu_count() or 1})),
    "device": lambda given: map(asdict, on_device(given.device)),
}
_USUAL = [part for part in _PARTS if part == "recall" or part not in TASKS]


# ---- for people


def _judged(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterable[str]:
    """The goals, and whether the lower end of the interval reaches them."""
    for row in found.get("time", ()):
        if row["length"] >= _FASTER_FROM and row["way"].startswith("tiled"):
            name = f"{row['way']}{', causal' if row['causal'] else ''}, {row['length']:,} tokens"
            for peer in ("unfused", "sdpa"):
                verdict = "faster" if row[f"{peer}_interval"][0] > 1 else "NOT faster"
                yield f"{name}: {verdict} than {peer} dense attention, {row[f'{peer}_ratio']:.2f}x"
    for row in found.get("memory", ()):
        if row["length"] == _UNDER_FROM and row["way"].startswith("tiled"):
            verdict = "reaches" if row["under_dense"] >= _UNDER else "MISSES"
            yield f"{row['way']}: {row['under_dense']:.1%} under unfused dense attention, {verdict} {_UNDER:.0%}"
    for row in found.get("device", ()):
        if row["ratio"] is None:
            yield f"{row['shape']}{' causal' if row['causal'] else ''}: {row['note']}"
        else:
            verdict = "reaches" if row["interval"][0] >= row["goal"] else "MISSES"
            causal = " causal" if row["causal"] else ""
            yield f"{row['shape']}{causal}: {row['ratio']:.2f}x flash, {verdict} {row['goal']}x"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
