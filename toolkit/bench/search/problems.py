"""Problems of the comparison: genes by number, and what comes of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from math import log, prod

import numpy as np
from numpy.typing import NDArray

from toolkit.bench.search import tables
from toolkit.errors import UnknownName
from toolkit.rng import generator, numpy_generator
from toolkit.search.behavior import BehaviorSpace
from toolkit.search.centroids import cvt_centroids
from toolkit.search.config_space import ConfigSpace
from toolkit.search.genes import Choice
from toolkit.search.measures import Floats, Measure
from toolkit.search.variation import sample_stratified

__all__ = ["CELLS", "Indices", "Point", "Problem", "problem", "problem_names"]

CELLS = 100
_SAMPLED = 2000
_SYNTHETIC = "synthetic"
Indices = tuple[int, ...]


@dataclass(frozen=True)
class Point:
    """What one deployment is worth."""

    quality: float
    latency_s: float
    model_bytes: float


@dataclass(frozen=True)
class Problem:
    """Deployments among which to search.

    Args:
        genes: Values by gene.
        evaluate: Of the number of each gene's value; the same for the same numbers.
    """

    name: str
    genes: Mapping[str, tuple[int | float | str, ...]]
    evaluate: Callable[[Indices], Point]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Values of each gene."""
        return tuple(len(values) for values in self.genes.values())

    @property
    def configurations(self) -> int:
        """All there are."""
        return prod(self.sizes)

    @cached_property
    def _sampled(self) -> list[Point]:
        """Some of them, the same for every method: they say how far measures reach, and how to divide them into cells.

        By strata: genes drawn evenly, one by one, average out, and reach little of what there is.
        """
        rng = numpy_generator(0, "search bench", self.name)
        space = ConfigSpace([Choice(name, tuple(range(len(values)))) for name, values in self.genes.items()])
        drawn = [sample_stratified(space, rng) for _ in range(_SAMPLED)]
        ends = [tuple(0 for _ in self.sizes), tuple(size - 1 for size in self.sizes)]
        return [self.evaluate(row) for row in [*(tuple(int(v) for v in c.values()) for c in drawn), *ends]]

    @cached_property
    def space(self) -> BehaviorSpace:
        """Latency, and what the size says beyond it."""
        raw = np.array([[p.latency_s, p.model_bytes] for p in self._sampled])
        low, high = raw.min(0) * 0.99, raw.max(0) * 1.01
        measures = [
            Measure(name="latency_s", unit="s", low=low[0], high=high[0], transform="log", larger_is="worse"),
            Measure(name="model_bytes", unit="B", low=low[1], high=high[1], transform="log", larger_is="worse"),
        ]
        return BehaviorSpace.fit(measures, raw)

    @cached_property
    def centroids(self) -> Floats:
        """(CELLS, 2) in the unit square, one set for all methods."""
        return cvt_centroids(CELLS, len(self.space), n_samples=10_000, seed=0)

    @cached_property
    def reach_s(self) -> tuple[float, float]:
        """Latencies between which the hypervolume counts; what lies beyond the sample counts as its end."""
        latency = [point.latency_s for point in self._sampled]
        return min(latency), max(latency)

    def goals(self, points: list[Point]) -> Floats:
        """(n, 2) quality, and speed on a scale of factors from the slowest, 0, to the fastest, 1."""
        fast, slow = self.reach_s
        width = log(slow / fast)
        return np.array([[p.quality, min(1.0, max(0.0, log(slow / p.latency_s) / width))] for p in points])


def problem_names() -> list[str]:
    """The synthetic one, and each network that has a table on each target."""
    return [_SYNTHETIC, *(f"{name}/{target}" for name in tables.names() for target in tables.load(name).latency_s)]


@cache
def problem(name: str) -> Problem:
    """One of `problem_names`.

    Raises:
        UnknownName: there is none.
    """
    if name not in problem_names():
        raise UnknownName("problem", name, problem_names())
    if name == _SYNTHETIC:
        return _synthetic()
    network, _, target = name.partition("/")
    return _tabulated(name, tables.load(network), target)


def _tabulated(name: str, table: tables.Table, target: str) -> Problem:
    """Where a target has no integers, layers stay in float and are no genes."""
    latency = table.latency_s[target]
    is_fixed = [bool(np.isnan(latency).any()) and "float" in values for values in table.genes.values()]
    free = [k for k, fixed in enumerate(is_fixed) if not fixed]
    names = list(table.genes)
    whole = [0] * len(names)

    def evaluate(indices: Indices) -> Point:
        numbers = list(whole)
        for k, index in zip(free, indices, strict=True):
            numbers[k] = index
        row = int(np.ravel_multi_index(tuple(numbers), table.sizes))
        return Point(int(table.right[row]) / table.samples, float(latency[row]), float(table.weight_bytes[row]))

    return Problem(name, {names[k]: table.genes[names[k]] for k in free}, evaluate)


_LAYERS = 12


def _synthetic() -> Problem:
    """Twelve layers with bits, channels and ranks: how much each bears is drawn once. No device, no network: a formula.

    Harm of rounding falls by four a bit, that of thinning rises with its square, and harms add up within the layer that
    has both; quality falls exponentially with their sum, as that of real networks does beyond some harm.
    """
    rng = generator(0, "search bench", _SYNTHETIC)
    macs, weights, bears = (np.exp(rng.normal(0.0, scale, _LAYERS)) for scale in (0.8, 0.8, 1.0))
    bits, kept, ranks = np.array([2, 3, 4, 6, 8, 16]), np.array([0.4, 0.55, 0.7, 0.85, 1.0]), np.array([0.25, 0.5, 1.0])
    genes: dict[str, tuple[int | float | str, ...]] = {}
    for name, values in (("bits", bits), ("kept", kept), ("rank", ranks)):
        genes |= {f"layers.{k}.{name}": tuple(values.tolist()) for k in range(_LAYERS)}

    def evaluate(indices: Indices) -> Point:
        chosen: NDArray[np.intp] = np.array(indices).reshape(3, _LAYERS)
        b, k, r = bits[chosen[0]], kept[chosen[1]], ranks[chosen[2]]
        harm = bears * (4.0 ** (2 - b) + (1 - k) ** 2 + 0.3 * (1 - r) ** 2) + 2 * 4.0 ** (2 - b) * (1 - k)
        share = k * np.minimum(1.0, 2 * r)
        latency = 1e-4 + float((macs * share * (0.25 + b / 16)).sum()) * 1e-3
        return Point(float(0.1 + 0.85 * np.exp(-0.35 * harm.sum())), latency, float((weights * share * b).sum()) * 1e3)

    return Problem(_SYNTHETIC, genes, evaluate)
