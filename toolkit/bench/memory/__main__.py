"""Predicted memory beside what onnxruntime and TVM really take on this machine, and arenas beside their lower bound.

    python -m toolkit.bench.memory [--json] [--without-tvm]

onnxruntime runs each network in a process of its own, with random weights and one thread:

- first run: the arena's peak above the weights while every tensor is allocated by itself. The arena is told to hand out
  chunks of the size asked for, so that its statistics count bytes and not the halves of chunks that it keeps.
- later runs: the same with onnxruntime's memory pattern, which puts the activations into one block from the second run.
- process: the most resident memory of a Python process that loads the file and runs it twice with default settings.

TVM's plan is read from the function it makes of the same ONNX file: the storages of `StaticPlanBlockMemory`, results of
the network left out, as they lie in none. Beside it stand the same rule on our reading of the ONNX graph, and the arena
with offsets that we plan instead.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from toolkit.bench.memory.networks import HELD_OUT, INTEGER_NETWORKS, NETWORKS
from toolkit.bench.memory.plans import Planned, planned
from toolkit.bench.memory.runs import Measured, measured
from toolkit.bench.memory.zoo import Gap, zoo_gaps

_ALIGNED = 0.001  # what rounding to 64 bytes may add


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m toolkit.bench.memory", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--without-tvm", action="store_true", help="leave TVM's plans out")
    arguments = parser.parse_args()
    runs, plans = [], []
    for network, shape in (*NETWORKS, *HELD_OUT):
        for precision in ("fp32", "int8") if network in INTEGER_NETWORKS else ("fp32",):
            runs.append(measured(network, shape, precision=precision))
            print(f"{network} {precision} in onnxruntime", file=sys.stderr)
        if not arguments.without_tvm and (network, shape) in NETWORKS:
            plans.append(planned(network, shape))
            print(f"{network} in TVM", file=sys.stderr)
    gaps = list(zoo_gaps())
    if arguments.json:
        document = {
            "schema": "toolkit.bench.memory/1",
            "onnxruntime": [{**asdict(run), "covered": run.covered} for run in runs],
            "tvm": [asdict(plan) for plan in plans],
            "zoo": [asdict(gap) for gap in gaps],
        }
        print(json.dumps(document))
        return
    _print_runs(runs)
    _print_plans(plans)
    _print_gaps(gaps)


def _print_runs(runs: Sequence[Measured]) -> None:
    print("onnxruntime, MB: measured, predicted and error")
    print(f"{'network':38} {'':5} {'first run':>22} {'later runs':>22} {'process':>24}   {'our arena':>9} {'bound':>7}")
    held_out = {network for network, _ in HELD_OUT}
    for run in runs:
        if run.network == HELD_OUT[0][0]:
            print("held out:")
        print(
            f"{run.network:38} {run.precision:5} {_pair(run.first_run_bytes, run.first_run_predicted_bytes)} "
            f"{_pair(run.later_runs_bytes, run.later_runs_predicted_bytes)} "
            f"{_pair(run.process_bytes, run.process_predicted_bytes)} {'' if run.covered else '!':1} "
            f"{run.planned_bytes / 1e6:9.3f} {run.lower_bound_bytes / 1e6:7.3f}"
        )
    covered = sum(run.covered for run in runs)
    unseen = sum(run.covered for run in runs if run.network in held_out)
    print(
        f"the interval of the process holds {covered} of {len(runs)}, of those held out {unseen}; ! marks the others\n"
    )


def _print_plans(plans: Sequence[Planned]) -> None:
    if not plans:
        return
    print("TVM's static plan, MB; its rule on its own graph, and on ours; arenas with offsets for both graphs")
    for plan in plans:
        print(
            f"{plan.network:38} {_pair(plan.tvm_bytes, plan.same_rule_bytes)} "
            f"{_pair(plan.tvm_bytes, plan.same_rule_from_onnx_bytes)} "
            f"{plan.arena_bytes / 1e6:8.3f} {plan.arena_from_onnx_bytes / 1e6:8.3f}"
        )
    print()


def _print_gaps(gaps: Sequence[Gap]) -> None:
    exact = sum(gap.gap < _ALIGNED for gap in gaps)
    print(f"{len(gaps)} plans of {len({gap.graph for gap in gaps})} graphs: {exact} within 0.1 % of the lower bound")
    for gap in sorted(gaps, key=lambda g: -g.gap)[:5]:
        print(f"{gap.graph:50} {gap.operators:5} operators {gap.gap:7.2%} {gap.plan_s * 1e3:6.0f} ms  {gap.heuristic}")


def _pair(truth: int, predicted: int) -> str:
    return f"{truth / 1e6:7.2f} {predicted / 1e6:7.2f} {predicted / truth - 1:+6.1%}"


if __name__ == "__main__":
    main()
