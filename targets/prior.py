"""What a stack is expected to reach before anything was measured on it: a share of the data sheet.

The shares are round numbers read off the fitted stacks (Raspberry Pi 4, Jetson Nano, Edge TPU; see
sources in the profiles): dense convolutions reach about 40 % of the peak, depthwise ones about 5 %.
They start every calibration and stand alone, with a wide interval, where there are no rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from targets.stack import LatencyFit

__all__ = ["PRIOR_INTERVAL", "prior_fit"]

PRIOR_INTERVAL = (1 / 3, 3.0)
_UTILISATION = {"conv3x3": 0.45, "conv": 0.3, "pointwise": 0.35, "depthwise": 0.06, "matmul": 0.3, "recurrent": 0.02}
_BANDWIDTH_SHARE = 0.6


def prior_fit(peak_flop_s: Mapping[str, float], dram_bytes_s: float, stack: Mapping[str, Any]) -> LatencyFit:
    """Coefficients from data-sheet peaks for the stack's precision and kind of dispatch.

    `stack` is the stack's table. Its `prior` may state `fixed_s`, `operator_s`, `peak_share` (the part of the device
    that the stack uses, for instance one core of six) and, for another card, `peak_flop_s` and `dram_bytes_s`.
    """
    stated = stack.get("prior", {})
    peaks = stated.get("peak_flop_s", peak_flop_s)
    dram = stated.get("dram_bytes_s", dram_bytes_s)
    peak_mac_s = peaks.get(stack["precision"], min(peaks.values())) * stated.get("peak_share", 1.0) / 2
    return LatencyFit(
        fixed_s=stated.get("fixed_s", 5e-4),
        operator_s=stated.get("operator_s", 1e-5),
        mac_s={name: peak_mac_s * utilisation for name, utilisation in _UTILISATION.items()},
        activation_bytes_s=dram * _BANDWIDTH_SHARE,
        weight_bytes_s=dram * _BANDWIDTH_SHARE,
        interval=PRIOR_INTERVAL,
        rows=0,
        networks=0,
        seen_classes=frozenset(),
        seen_macs=(0, 0),
        provenance="data-sheet peaks times typical utilisation, no measured rows",
    )
