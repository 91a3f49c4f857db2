"""New configurations out of others: drawn anew, stepped, moved in blocks, crossed. All come back repaired."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from toolkit.search.config_space import Config, ConfigSpace
from toolkit.search.genes import Gene, Value

__all__ = ["block_moved", "crossed", "mutated", "neighbours", "sample_stratified", "sample_uniform"]

_CONCENTRATION = 0.3
_BLOCK = 0.6


def sample_uniform(space: ConfigSpace, rng: np.random.Generator) -> Config:
    """Each gene evenly, by itself."""
    return space.legal({}, rng)


def sample_stratified(space: ConfigSpace, rng: np.random.Generator) -> Config:
    """For each group of genes, shares of its levels by Dirichlet(0.3); then each gene of the group by those.

    Layers drawn evenly, one by one, average out: nearly all such networks are alike.
    """
    shares: dict[tuple[str, int], list[float]] = {}
    for gene in space.genes.values():
        kind = (gene.group, gene.levels)
        if kind not in shares:
            drawn = rng.dirichlet(np.full(gene.levels, _CONCENTRATION))
            # so small a concentration can leave nothing but zeros
            total = float(drawn.sum())
            shares[kind] = (drawn / total).tolist() if total > 0 else [1 / gene.levels] * gene.levels
    return space.repair(space.completed({}, lambda gene: gene.sample(rng, shares[gene.group, gene.levels])))[0]


def mutated(space: ConfigSpace, config: Mapping[str, Value], rng: np.random.Generator) -> Config:
    """One step up or down on one gene or two, evenly often.

    Two always would leave half of a space of ordered genes out of reach: the sum of their places stays even.
    """
    active = [gene for gene in space.active(config) if gene.levels > 1]
    if not active:
        return space.legal(config, rng)
    count = min(len(active), 1 + int(rng.integers(2)))
    stepped = dict(config)
    for at in rng.permutation(len(active))[:count].tolist():
        _step(stepped, active[at], bool(rng.integers(2)), rng)
    return space.legal(stepped, rng)


def block_moved(space: ConfigSpace, config: Mapping[str, Value], rng: np.random.Generator) -> Config:
    """One group of genes, one direction: a step for a random 60 % of them, one at least."""
    groups: dict[str, list[Gene]] = {}
    for gene in space.active(config):
        if gene.levels > 1:
            groups.setdefault(gene.group, []).append(gene)
    if not groups:
        return space.legal(config, rng)
    members = groups[list(groups)[int(rng.integers(len(groups)))]]
    up = bool(rng.integers(2))
    moves = rng.random(len(members)) < _BLOCK
    moves[int(rng.integers(len(members)))] = True
    moved = dict(config)
    for gene, is_moved in zip(members, moves.tolist(), strict=True):
        if is_moved:
            _step(moved, gene, up, rng)
    return space.legal(moved, rng)


def crossed(
    space: ConfigSpace, a: Mapping[str, Value], b: Mapping[str, Value], rng: np.random.Generator, share: float = 0.1
) -> Config:
    """`a` with each gene, with the probability `share`, as in `b`."""
    takes = rng.random(len(space.genes)) < share
    taken = {
        name: b[name] for name, is_taken in zip(space.genes, takes.tolist(), strict=True) if is_taken and name in b
    }
    return space.legal(dict(a) | taken, rng)


def neighbours(space: ConfigSpace, config: Mapping[str, Value]) -> list[Config]:
    """Every other legal configuration that one step on one gene leads to, each once. Genes that come to exist by it
    start with their first value."""
    own = space.key(config)
    found: dict[str, Config] = {}
    for gene in space.active(config):
        for value in gene.near(config[gene.name]):
            made = space.repair(space.completed(dict(config) | {gene.name: value}, lambda gene: gene.lowest))[0]
            found.setdefault(space.key(made), made)
    found.pop(own, None)
    return list(found.values())


def _step(config: dict[str, Value], gene: Gene, up: bool, rng: np.random.Generator) -> None:
    config[gene.name] = gene.stepped(config[gene.name], up, rng)
