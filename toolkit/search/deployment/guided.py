"""An emitter that asks a model of the quality: of many candidates the one that is expected to improve its cell most.

Prices of a candidate come from tables, so its cell is known; its quality is predicted, with an error, by a Gaussian
process on the coded genes. Source: expected improvement, Jones, Schonlau, Welch 1998; over the cells of an archive,
Gaier, Asteroth, Mouret 2018 (SAIL).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import norm

from toolkit.search.archive import CVTArchive
from toolkit.search.config_space import Config, ConfigSpace
from toolkit.search.deployment.prices import MEASURES, broken
from toolkit.search.deployment.tables import Tables
from toolkit.search.elites import Candidate
from toolkit.search.emitters import Proposal
from toolkit.search.genes import Choice, Value
from toolkit.search.genomes import genome_id
from toolkit.search.measures import Floats
from toolkit.search.variation import block_moved, mutated, sample_stratified

if TYPE_CHECKING:
    from sklearn.gaussian_process import GaussianProcessRegressor

__all__ = ["Guided", "coded"]

_LEAST = 24
_MOST = 600
_POOL = 96
_NOISE = 1e-3
_REFIT = 16


class Guided:
    """Candidates by design and from elites; the one of the greatest expected improvement is proposed.

    Args:
        limits: The most that a measure may be, by name; what is predicted to exceed one is left to others.
    """

    name = "guided"

    def __init__(self, tables: Tables, limits: Mapping[str, float]) -> None:
        self._tables, self._limits = tables, dict(limits)
        self._seen: dict[str, tuple[Config, float]] = {}
        self._model: GaussianProcessRegressor | None = None
        self._fitted = 0

    def propose(self, space: ConfigSpace, archive: CVTArchive, rng: np.random.Generator) -> Proposal:
        """By design until there is enough to learn from."""
        if len(self._seen) < _LEAST or not len(archive):
            return Proposal(sample_stratified(space, rng))
        pool = self._pool(space, archive, rng)
        if not pool:
            return Proposal(sample_stratified(space, rng))
        gains = self._gains(space, archive, [proposal.config for proposal in pool])
        return pool[int(gains.argmax())]

    def told(self, candidates: Sequence[Candidate], archive: CVTArchive) -> None:
        """Of all that came in, whoever proposed it."""
        for candidate in candidates:
            assert isinstance(candidate.genome, Mapping)
            self._seen[genome_id(candidate.genome)] = dict(candidate.genome), float(candidate.quality)

    def _pool(self, space: ConfigSpace, archive: CVTArchive, rng: np.random.Generator) -> list[Proposal]:
        """Candidates that were not evaluated yet, each once."""
        parents = archive.sample(_POOL, rng)
        found: dict[str, Proposal] = {}
        for k, parent in enumerate(parents):
            assert isinstance(parent.genome, Mapping)
            config = dict(parent.genome)
            if k % 4 == 0:
                proposal = Proposal(sample_stratified(space, rng))
            else:
                vary = block_moved if k % 4 == 1 else mutated
                proposal = Proposal(vary(space, config, rng), (parent.id,))
            if (key := genome_id(proposal.config)) not in self._seen:
                found.setdefault(key, proposal)
        return list(found.values())

    def _gains(self, space: ConfigSpace, archive: CVTArchive, configs: Sequence[Config]) -> Floats:
        """Expected improvement of each over the elite of its cell, or over the worst there is in an empty one."""
        mean, deviation = self._predicted(space, configs)
        measures = self._tables.measures(configs)
        columns = [k for k, measure in enumerate(MEASURES) if measure.name in archive.space.names]
        best = np.array([archive.quality_min] * len(configs))
        for row, cell in enumerate(archive.cell_of(measures[:, columns]).tolist()):
            elite = archive.get(cell) if cell >= 0 else None
            if elite is not None and elite.violation == 0:
                best[row] = elite.quality
        z = (mean - best) / deviation
        gains: Floats = (mean - best) * norm.cdf(z) + deviation * norm.pdf(z)
        names = [measure.name for measure in MEASURES]
        over = [broken(self._limits, dict(zip(names, row, strict=True))) > 0 for row in measures.tolist()]
        return np.where(over, -1.0, gains)

    def _predicted(self, space: ConfigSpace, configs: Sequence[Config]) -> tuple[Floats, Floats]:
        if self._model is None or len(self._seen) >= self._fitted + _REFIT:
            self._model, self._fitted = self._learnt(space), len(self._seen)
        mean, deviation = self._model.predict(coded(space, configs), return_std=True)
        return mean, np.maximum(deviation, 1e-9)

    def _learnt(self, space: ConfigSpace) -> GaussianProcessRegressor:
        from sklearn.gaussian_process import GaussianProcessRegressor
        from sklearn.gaussian_process.kernels import RBF

        latest = list(self._seen.values())[-_MOST:]
        codes = coded(space, [config for config, _ in latest])
        # of random pairs half lie nearer than this: a length that the kernel tells near from far by
        length = max(0.5, float(np.median(np.linalg.norm(codes[1:] - codes[:-1], axis=1))))
        model = GaussianProcessRegressor(RBF(length), alpha=_NOISE, optimizer=None, normalize_y=True)
        return model.fit(codes, np.array([quality for _, quality in latest]))


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
