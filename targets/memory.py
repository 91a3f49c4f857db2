"""The memory of a running workload: activations, weights, what loading them takes, and the runtime itself.

`peak_activation_bytes` is a bound that costs a tenth of a millisecond; `targets.memory_plan` lays an arena out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from targets.buffers import lifetimes
from targets.onnxruntime_memory import arena_use
from targets.stack import Stack
from targets.target import load_target
from targets.workload import Workload

__all__ = ["PeakMemory", "live_bytes", "peak_activation_bytes", "peak_memory"]

_CONVOLUTIONS = frozenset({"conv3x3", "conv", "pointwise", "depthwise"})


@dataclass(frozen=True, kw_only=True)
class PeakMemory:
    """The most memory that a process holds for one network, from loading it to running it.

    `parts` are bytes by cause; their sum is `peak_bytes`. `activation_bytes` is what a run holds at once without the
    weights; `interval_bytes` is meant to hold the peak of 80 % of networks where `measured` is set.
    """

    peak_bytes: int
    interval_bytes: tuple[int, int]
    activation_bytes: int
    parts: Mapping[str, int]
    measured: bool
    provenance: str


@dataclass(frozen=True, kw_only=True)
class _Runtime:
    """How often a runtime holds a network's weights at the worst moment, by their kind; file and packed copies counted.

    `while_running` is set where all of them are still there when the network runs; else only one is. `interval` are the
    factors on the peak that hold 80 % of networks, `base_bytes` what the runtime itself took where they were found.
    """

    convolutions: float
    integers: float
    others: float
    while_running: bool
    source: str
    interval: tuple[float, float] | None = None
    base_bytes: int = 0


_ONNXRUNTIME = _Runtime(
    convolutions=2.89,
    integers=1.9,
    others=1.47,
    while_running=True,
    source="as measured with onnxruntime 1.31 on x86-64",
    interval=(0.86, 1.18),
    base_bytes=60_000_000,
)
"""From 14 networks in float32 and 7 in int8: resident memory after a file was loaded and run twice.
onnxruntime keeps convolution weights in the layout of its kernels, and what it freed while loading stays with the
process. The interval holds 80 % of the float32 networks, each left out of the fit, and 80 % of nine networks that were
measured afterwards; each asks for one of its ends. See `toolkit.bench.memory`."""

_ENGINE = _Runtime(
    convolutions=2.0,
    integers=2.0,
    others=2.0,
    while_running=False,
    source="twice while the engine is loaded, its file lying in the memory that the device shares (assumed)",
)
_ONCE = _Runtime(convolutions=1.0, integers=1.0, others=1.0, while_running=True, source="once")


def live_bytes(workload: Workload) -> list[int]:
    """Bytes of activations alive while each operator runs, in order; inputs and outputs of the graph included.

    No arena in which nothing is overwritten can be smaller than the maximum of this list. A graph without work has no
    steps.
    """
    change = [0] * (len(workload.operators) + 1)
    sizes = workload.tensor_bytes
    for name, (first, last) in lifetimes(workload).items():
        change[first] += sizes[name]
        change[last + 1] -= sizes[name]
    alive, total = [], 0
    for delta in change[:-1]:
        total += delta
        alive.append(total)
    return alive


def peak_activation_bytes(workload: Workload) -> int:
    """The largest sum of activations alive at once, each in bytes of its own."""
    return max(live_bytes(workload), default=0)


def peak_memory(workload: Workload, stack: Stack, *, quick: bool = False) -> PeakMemory:
    """The peak of a process that loads `workload` on `stack` and runs it, in bytes.

    Args:
        workload: Grouped as the stack fuses, in the precision that it computes in.
        quick: Take the activations that are alive at once for those that the runtime's own planner would hold. For
            searches: a tenth of a millisecond instead of one.
    """
    runtime = _runtime(stack)
    parts = {"runtime": stack.runtime_bytes, "weights": workload.weight_bytes}
    activations, arena = _activations(workload, runtime, quick)
    parts["activations"] = activations
    parts["gaps between activations"] = max(0, arena - activations)
    copies = _copies(workload, runtime)
    parts["copies of weights"] = copies if runtime.while_running else max(0, copies - max(activations, arena))
    peak = sum(parts.values())
    return PeakMemory(
        peak_bytes=peak,
        interval_bytes=_interval(parts, runtime),
        activation_bytes=activations,
        parts=MappingProxyType(parts),
        measured=runtime.base_bytes == stack.runtime_bytes,
        provenance=_provenance(stack, runtime),
    )


def _runtime(stack: Stack) -> _Runtime:
    if stack.runtime == "onnxruntime":
        return _ONNXRUNTIME
    shares = bool(load_target(stack.target).parameters.get("unified_memory"))
    return _ENGINE if shares else _ONCE


def _activations(workload: Workload, runtime: _Runtime, quick: bool) -> tuple[int, int]:
    """Bytes alive at once, and bytes that the runtime holds for them."""
    if runtime is _ONNXRUNTIME and not quick:
        use = arena_use(workload)
        return use.first_run_bytes, use.later_runs_bytes
    bound = peak_activation_bytes(workload)
    return bound, bound


def _copies(workload: Workload, runtime: _Runtime) -> int:
    """Bytes of weights beyond the one copy that every runtime holds."""
    counted, copied = 0, 0.0
    for op in workload.operators:
        counted += op.weight_bytes
        if op.dtype in ("int8", "uint8"):
            copied += (runtime.integers - 1) * op.weight_bytes
        elif op.op_class in _CONVOLUTIONS:
            copied += (runtime.convolutions - 1) * op.weight_bytes
        else:
            copied += (runtime.others - 1) * op.weight_bytes
    return round(copied * workload.weight_bytes / counted) if counted else 0


def _interval(parts: Mapping[str, int], runtime: _Runtime) -> tuple[int, int]:
    """Measured residuals; the runtime within half of what was assumed for it, where that is not what was measured.

    Where nothing was measured: at the upper end weights packed a second time, and an arena of twice the peak.
    """
    base, rest = parts["runtime"], sum(parts.values()) - parts["runtime"]
    if runtime.interval is None:
        least = base // 2 + parts["weights"] + parts["activations"]
        most = base * 3 // 2 + max(rest, 2 * (parts["weights"] + parts["activations"]))
        return least, most
    low, high = runtime.interval
    margin = 0 if base == runtime.base_bytes else base // 2
    return int(low * (base + rest)) - margin, int(high * (base + rest)) + margin


def _provenance(stack: Stack, runtime: _Runtime) -> str:
    weights = f"runtime + activations + weights, held {runtime.source}"
    if runtime.interval is None:
        return (
            f"{weights}; interval (assumed): the runtime within half, and at the upper end weights packed a second "
            "time in an arena of twice the peak"
        )
    if runtime.base_bytes == stack.runtime_bytes:
        return f"{weights}; interval: residuals of 14 networks left out one at a time and of 9 others"
    return f"{weights}; interval: residuals of 23 networks there, the runtime within half (assumed)"
