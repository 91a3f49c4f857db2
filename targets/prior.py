"""What a stack is expected to reach before anything was measured on it: a share of the data sheet.

The shares are round numbers read off the fitted stacks (Raspberry Pi, Jetson; sources in the profiles). They start
every calibration and stand alone, with a wide interval, where there are no rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from targets.latency import CAUSES, LatencyFit, Lowering
from targets.support import Rules, load_rules

__all__ = ["SPREAD", "lowering_of", "prior_fit"]

SPREAD: Mapping[str, float] = {
    "fixed": 1.0, "launch": 1.0, "convolution": 0.5, "winograd": 0.5, "matmul": 0.7, "depthwise": 0.7,
    "recurrent": 1.0, "windows": 0.7, "sums": 0.7, "patches": 0.7, "transforms": 0.7, "activations": 0.7,
    "weights": 0.7, "packing": 0.7,
}  # fmt: skip
"""Standard deviation of the logarithm of each cost around what is expected here."""

_UTILISATION = {"convolution": 0.4, "winograd": 1.2, "matmul": 0.3, "depthwise": 0.08, "recurrent": 0.02}
_RECURRENT_ON_CPU = 0.2  # steps that stay in the cache, as onnxruntime runs them on x86-64
# One element costs as much as so many multiply-accumulates of a convolution.
_IN_MACS = {"windows": 4.0, "sums": 8.0, "patches": 20.0, "transforms": 30.0}
_GATHERED = {"gpu": 0.1}  # of that, where patches and transforms are made on the way to the multipliers
_BANDWIDTH_SHARE = {
    "cpu": {"activations": 0.25, "weights": 0.5, "packing": 0.3},
    "gpu": {"activations": 0.7, "weights": 0.7, "packing": 7.0},  # laid out once, when the engine is built
    "tpu": {"activations": 0.6, "weights": 0.6, "packing": 0.6},
}
_SCATTER = 0.3  # of a network around what a data sheet lets expect, beside the spread of the costs
_QUANTILE = 1.6  # standard deviations


def prior_fit(
    peak_flop_s: Mapping[str, float], dram_bytes_s: float, device_type: str, stack: Mapping[str, Any]
) -> LatencyFit:
    """Costs from data-sheet peaks for the stack's precision and kind of dispatch.

    `stack` is the stack's table. Its `prior` may state `fixed_s`, `operator_s`, `peak_share` (the part of the device
    that the stack uses, for instance one core of six), the share of the peak that a cause reaches (`utilisation`), the
    share of the usual cost at which patches and transforms are made (`gathering`), how well a cost is known that was
    measured by itself (`spread`, as in SPREAD) and, for another card, `peak_flop_s` and `dram_bytes_s`.
    """
    stated = stack.get("prior", {})
    peaks = stated.get("peak_flop_s", peak_flop_s)
    dram = stated.get("dram_bytes_s", dram_bytes_s)
    peak_mac_s = peaks.get(stack["precision"], min(peaks.values())) * stated.get("peak_share", 1.0) / 2
    usual = {**_UTILISATION, "recurrent": _RECURRENT_ON_CPU} if device_type == "cpu" else _UTILISATION
    utilisation = {**usual, **stated.get("utilisation", {})}
    costs = {
        "fixed": stated.get("fixed_s", 5e-4),
        "launch": stated.get("operator_s", 1e-5),
        **{cause: 1 / (peak_mac_s * share) for cause, share in utilisation.items()},
        **{cause: 1 / (dram * share) for cause, share in _BANDWIDTH_SHARE[device_type].items()},
    }
    costs |= {cause: macs * costs["convolution"] for cause, macs in _IN_MACS.items()}
    for cause in ("patches", "transforms"):
        costs[cause] *= stated.get("gathering", _GATHERED.get(device_type, 1.0))
    if stack.get("rules"):
        costs |= _accelerator(load_rules(stack["rules"]), stack["link_bytes_s"])
    spread = {**SPREAD, **stated.get("spread", {})}
    return LatencyFit(
        costs={cause: costs[cause] for cause in CAUSES},
        covariance=[[spread[a] ** 2 if a == b else 0.0 for b in CAUSES] for a in CAUSES],
        scatter=_SCATTER,
        quantile=_QUANTILE,
        lowering=lowering_of(stack),
        rows=0,
        networks=0,
        seen_causes=frozenset(),
        seen_macs=(0, 0),
        provenance="data-sheet peaks times typical utilisation, no measured rows",
    )


def lowering_of(stack: Mapping[str, Any]) -> Lowering:
    """How the stack whose table this is makes kernels."""
    return Lowering(**{f.name: stack[f.name] for f in fields(Lowering) if f.name in stack})


def _accelerator(rules: Rules, link_bytes_s: float) -> dict[str, float]:
    """What its own compiler expects, and the instructions that cross the link."""
    seconds = {cause: cycles / rules.clock_hz for cause, cycles in rules.cycles.items()}
    for cause, size in rules.instruction_bytes.items():
        seconds[cause] += size / link_bytes_s
    return seconds
