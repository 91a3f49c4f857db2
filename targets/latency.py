"""The latency model: what an operator's time is made of, and what a unit of each part costs on a stack.

An inference takes the sum, over `CAUSES`, of work times cost. Work is counted from the graph alone (`work_of`); costs
belong to a stack and are fitted (targets.fitting) or expected from its data sheet (targets.prior). The causes follow
how kernels are written:

- A dense product of (rows x depth) by (depth x columns) does its multiply-accumulates at one rate, touches every sum
  of its result once more (so that a shallow product is slower for its arithmetic), and lays its weights out anew.
- A convolution with a filter above 1x1 is lowered to such a product by gathering patches, or, for 3x3 filters of stride
  1 where the runtime knows Winograd's algorithm, by transforming its input and output (Lavin & Gray 2016), which pays
  only where there are many channels.
- A product of one row, as in a classifier or in decoding, has no arithmetic worth the name: it reads its weights.
- A depthwise convolution has a rate of its own, and everything moves its activations and pays for being launched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, exp, sqrt

from targets.operators import Product
from targets.workload import Operator

__all__ = ["ARITHMETIC", "CAUSES", "COVERAGE", "LatencyFit", "Lowering", "work_of"]

CAUSES: Mapping[str, str] = {
    "fixed": "inference",
    "launch": "operator",
    "convolution": "multiply-accumulate of a dense convolution",
    "winograd": "multiply-accumulate that Winograd's algorithm stands for",
    "matmul": "multiply-accumulate of a matrix product",
    "depthwise": "multiply-accumulate of a depthwise convolution",
    "recurrent": "multiply-accumulate of a recurrent layer",
    "windows": "element read by the windows of a pool",
    "sums": "element of a dense product's result",
    "patches": "element gathered into patches for a dense convolution",
    "transforms": "element transformed for Winograd's algorithm",
    "activations": "byte of activations read or written",
    "weights": "byte of weights read",
    "packing": "byte of weights laid out for a product of several rows",
}
"""What time goes into, and the unit in which its work is counted; a cost is seconds for one unit."""

ARITHMETIC = frozenset({"convolution", "winograd", "matmul", "depthwise", "recurrent"})
"""Causes of which an operator has one at most: those that a stack must have been measured on to be known there."""

_TILES = ((128, 128, 1.0), (128, 64, 0.9), (64, 64, 0.75), (32, 64, 0.6), (32, 32, 0.45))
"""Rows, columns and relative rate of the tiles that libraries of matrix kernels offer (CUTLASS's profiles)."""

COVERAGE = 0.8
"""Share of networks that the latency interval is meant to hold."""


@dataclass(frozen=True, kw_only=True)
class Lowering:
    """How a runtime makes kernels of operators.

    `batch` inferences are made at once and share what is done once; `winograd` is set where 3x3 convolutions of stride
    1 use that algorithm; `multiprocessors` is their number where products are cut into tiles for tensor cores.
    """

    batch: int = 1
    winograd: bool = False
    multiprocessors: int = 0


@dataclass(frozen=True, kw_only=True)
class LatencyFit:
    """The cost of a unit of each cause on a stack, how well it is known, and from what.

    `covariance` is that of the costs' natural logarithms, in the order of CAUSES; `scatter` the standard deviation of
    what the model cannot explain. `quantile` says how many standard deviations held COVERAGE of the networks that were
    left out. `seen_causes` are those of ARITHMETIC that mattered in the networks measured, `seen_macs` their least and
    largest size; `rows` is 0 where nothing was measured.
    """

    costs: Mapping[str, float]
    covariance: Sequence[Sequence[float]]
    scatter: float
    quantile: float
    lowering: Lowering
    rows: int
    networks: int
    seen_causes: frozenset[str]
    seen_macs: tuple[int, int]
    provenance: str

    @property
    def calibrated(self) -> bool:
        return self.rows > 0

    @property
    def fixed_s(self) -> float:
        """Seconds of one inference that belong to no operator."""
        return self.costs["fixed"] / self.lowering.batch

    def terms(self, op: Operator) -> dict[str, float]:
        """Seconds of one run of `op` by cause; they add up to its latency."""
        costs = self.costs
        return {cause: work * costs[cause] for cause, work in work_of(op, self.lowering).items()}

    def deviation(self, shares: Mapping[str, float]) -> float:
        """Standard deviation of the logarithm of a latency of which `shares` are the parts by cause."""
        part = [shares.get(cause, 0.0) for cause in CAUSES]
        spread = sum(
            a * sum(b * value for b, value in zip(part, row, strict=True))
            for a, row in zip(part, self.covariance, strict=True)
            if a
        )
        return sqrt(self.scatter**2 + spread)

    def interval(self, shares: Mapping[str, float]) -> tuple[float, float]:
        """Factors on a latency that hold COVERAGE of networks; costs that are ill known widen it."""
        factor = exp(self.quantile * self.deviation(shares))
        return 1 / factor, factor


def work_of(op: Operator, lowering: Lowering) -> dict[str, float]:
    """Work of one run of `op` in the units of CAUSES, for one of the inferences of a batch."""
    batch = lowering.batch
    work = {"launch": 1 / batch, "activations": float(op.activation_bytes), "weights": op.weight_bytes / batch}
    product = op.product
    if op.op_class in ("depthwise", "recurrent"):
        work[op.op_class] = float(product.elements)
    elif op.op_class == "pool":
        work["windows"] = float(product.elements)
    elif product.rows * batch > 1:
        elements = float(product.elements)
        if lowering.multiprocessors:
            elements *= _waste(product, lowering)
        if lowering.winograd and op.op_class == "conv3x3":
            channels = product.depth // max(product.taps, 1) + product.columns
            work["winograd"] = elements
            work["transforms"] = float(product.groups * product.rows * channels)
        else:
            work["matmul" if op.op_class == "matmul" else "convolution"] = elements
            work["sums"] = float(product.groups * product.rows * product.columns)
            if product.taps > 1:
                work["patches"] = float(product.groups * product.rows * product.depth)
        work["packing"] = op.weight_bytes / batch
    return work


@lru_cache(maxsize=65_536)
def _waste(product: Product, lowering: Lowering) -> float:
    """How much longer a product takes than its arithmetic, where tiles overhang its edges and the last round of them
    leaves multiprocessors idle; the best of the usual tiles, of which the smaller are slower for their arithmetic."""
    if not product.elements:
        return 1.0
    rows, columns = product.rows * lowering.batch, product.columns
    best = min(
        ceil(ceil(rows / high) * ceil(columns / wide) * product.groups / lowering.multiprocessors) * high * wide / rate
        for high, wide, rate in _TILES
    )
    return best * lowering.multiprocessors / (rows * columns * product.groups)
