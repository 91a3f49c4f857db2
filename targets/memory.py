"""Memory by liveness: a tensor is held from the operator that writes it to the last one that reads it."""

from __future__ import annotations

from targets.workload import Workload

__all__ = ["live_bytes", "peak_activation_bytes"]


def live_bytes(workload: Workload) -> list[int]:
    """Bytes of activations alive while each operator runs, in order; inputs and outputs of the graph included.

    No arena can be smaller than the maximum of this list. A graph without work has no steps.
    """
    steps = len(workload.operators)
    if not steps:
        return []
    first: dict[str, int] = dict.fromkeys(workload.inputs, 0)
    last: dict[str, int] = dict.fromkeys(workload.inputs, 0)
    for step, op in enumerate(workload.operators):
        for name in op.writes:
            first.setdefault(name, step)
            last[name] = step
        for name in op.reads:
            first.setdefault(name, 0)
            last[name] = step
    for name in workload.outputs:
        first.setdefault(name, 0)
        last[name] = steps - 1
    change = [0] * (steps + 1)
    for name, start in first.items():
        change[start] += workload.tensor_bytes[name]
        change[last[name] + 1] -= workload.tensor_bytes[name]
    alive, total = [], 0
    for delta in change[:steps]:
        total += delta
        alive.append(total)
    return alive


def peak_activation_bytes(workload: Workload) -> int:
    """The largest sum of activations alive at once: a lower bound for any arena."""
    return max(live_bytes(workload), default=0)
