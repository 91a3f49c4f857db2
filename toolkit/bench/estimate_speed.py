"""How long an estimate takes: `python -m toolkit.bench.estimate_speed [--json]`.

MobileNetV2, as a loaded graph, and as a workload that is known already and asked for again in another precision, on
another stack, as a search does. Goals: 20 ms and 0.5 ms. Times are the fastest of many, on one core.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from functools import partial

from targets.cost import estimate
from targets.graph import read_workload
from targets.target import load_stack
from toolkit.bench.graphs import graph_of

__all__ = ["measure"]

_STACKS = ("raspberry_pi_4/tflite-int8", "desktop_cpu/onnxruntime-int8", "jetson_xavier_nx/tensorrt-int8")
_REPEATS = 200


def measure() -> dict[str, float]:
    """Milliseconds for each way of asking, the slowest of the stacks."""
    graph = graph_of("mobilenet_v2_1.0", "1x224x224x3")
    assert graph is not None
    found: dict[str, float] = {}
    for name in _STACKS:
        stack = load_stack(name)
        known = read_workload(graph, fuses=stack.fuses)
        narrow = known.at_precision("int8")
        asked: dict[str, Callable[[], object]] = {
            "graph_ms": partial(estimate, graph, stack),
            "known_with_rows_ms": partial(estimate, narrow, stack),
            "known_totals_ms": partial(estimate, narrow, stack, quick=True),
            "other_precision_ms": partial(known.at_precision, "int8"),
        }
        for key, ask in asked.items():
            found[key] = max(found.get(key, 0.0), 1e3 * _fastest(ask, 20 if key == "graph_ms" else _REPEATS))
    return found


def _fastest(ask: Callable[[], object], repeats: int) -> float:
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        ask()
        best = min(best, time.perf_counter() - started)
    return best


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m toolkit.bench.estimate_speed", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    given = parser.parse_args(arguments)
    found = measure()
    if given.json:
        print(json.dumps({"schema": "toolkit.bench.estimate_speed/1", **found}))
        return
    print(f"MobileNetV2, 64 operators, the slowest of {', '.join(_STACKS)}")
    print(f"from a loaded graph              {found['graph_ms']:6.2f} ms  (goal 20 ms)")
    print(f"a known workload, every row      {found['known_with_rows_ms']:6.2f} ms")
    print(f"a known workload, totals alone   {found['known_totals_ms']:6.2f} ms  (goal 0.5 ms)")
    print(f"the workload in another precision {found['other_precision_ms']:5.2f} ms")


if __name__ == "__main__":
    main()
