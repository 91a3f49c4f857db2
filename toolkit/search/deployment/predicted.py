"""A model of the quality of configurations: a Gaussian process on coded genes, that says how far it may be wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from toolkit.search.config_space import Config, ConfigSpace
from toolkit.search.elites import Candidate
from toolkit.search.genes import Choice, Value
from toolkit.search.genomes import genome_id
from toolkit.search.measures import Floats

if TYPE_CHECKING:
    from sklearn.gaussian_process import GaussianProcessRegressor

__all__ = ["Predictor", "coded"]

_MOST = 500
_LENGTHS, _NOISES = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2), (1e-4, 1e-3, 1e-2, 1e-1)
_FITTED_ON, _FITTED_AGAIN = 300, 1.5


class Predictor:
    """Learns from all that was evaluated; what it says depends on that and its order alone.

    How far a length reaches, and what no length explains, are those of a grid under which what was seen is likeliest.
    """

    def __init__(self) -> None:
        self._seen: dict[str, tuple[Config, float]] = {}
        self._model: tuple[int, GaussianProcessRegressor] | None = None
        self._fitted: tuple[int, float, float] | None = None

    def __len__(self) -> int:
        return len(self._seen)

    def __contains__(self, key: str) -> bool:
        return key in self._seen

    def told(self, candidates: Sequence[Candidate]) -> None:
        """Remember candidates, each once."""
        for candidate in candidates:
            assert isinstance(candidate.genome, Mapping)
            self._seen[genome_id(candidate.genome)] = dict(candidate.genome), float(candidate.quality)

    def predicted(self, space: ConfigSpace, configs: Sequence[Config]) -> tuple[Floats, Floats]:
        """(n,) means, and standard deviations above 0, of what evaluations of `configs` would find."""
        if self._model is None or self._model[0] < len(self._seen):
            self._model = len(self._seen), self._learnt(space)
        mean, deviation = self._model[1].predict(coded(space, configs), return_std=True)
        return mean, np.maximum(deviation, 1e-9)

    def _learnt(self, space: ConfigSpace) -> GaussianProcessRegressor:
        seen = list(self._seen.values())
        size = _step(len(seen))
        if self._fitted is None or self._fitted[0] != size:
            self._fitted = size, *_likeliest(*_columns(space, _spread(seen[:size])))
        return _process(*self._fitted[1:]).fit(*_columns(space, seen[-_MOST:]))


def _step(count: int) -> int:
    """The largest rung up to `count` of a ladder from 16 whose steps are half of what is below them."""
    rung = 16
    while int(rung * _FITTED_AGAIN) <= count:
        rung = int(rung * _FITTED_AGAIN)
    return min(rung, count)


def _spread(seen: list[tuple[Config, float]]) -> list[tuple[Config, float]]:
    if len(seen) <= _FITTED_ON:
        return seen
    return [seen[k] for k in np.linspace(0, len(seen) - 1, _FITTED_ON).astype(int).tolist()]


def _columns(space: ConfigSpace, seen: Sequence[tuple[Config, float]]) -> tuple[Floats, Floats]:
    return coded(space, [config for config, _ in seen]), np.array([quality for _, quality in seen])


def _likeliest(codes: Floats, qualities: Floats) -> tuple[float, float]:
    """Length and noise of the greatest marginal likelihood."""

    def likelihood(pair: tuple[float, float]) -> float:
        found: float = _process(*pair).fit(codes, qualities).log_marginal_likelihood_value_
        return found

    return max(((length, noise) for length in _LENGTHS for noise in _NOISES), key=likelihood)


def _process(length: float, noise: float) -> GaussianProcessRegressor:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF

    return GaussianProcessRegressor(RBF(length), alpha=noise, optimizer=None, normalize_y=True)


def coded(space: ConfigSpace, configs: Sequence[Mapping[str, Value]]) -> Floats:
    """(n, features): an ordered gene as its place, 0 to 1, any other as a column a value; 0 where it does not exist."""
    columns: list[list[float]] = []
    for gene in space.genes.values():
        if isinstance(gene, Choice) and not gene.ordered:
            columns += [[float(config.get(gene.name) == value) for config in configs] for value in gene.values]
        elif isinstance(gene, Choice):
            last = max(1, len(gene.values) - 1)
            columns.append([gene.values.index(c[gene.name]) / last if gene.name in c else 0.0 for c in configs])
            columns.append([float(gene.name in config) for config in configs])
        else:
            span = gene.high - gene.low
            columns.append([(float(c[gene.name]) - gene.low) / span if gene.name in c else 0.0 for c in configs])
    return np.array(columns).T
