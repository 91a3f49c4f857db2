"""The configurations among which a search looks: which there are, which are legal, and what each is called."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import product
from math import inf, prod
from typing import Any, TypeAlias

import numpy as np

from toolkit.digests import canonical_digest
from toolkit.errors import InvalidInput
from toolkit.search.genes import Choice, Conditional, Float, Gene, Value

__all__ = ["Config", "ConfigSpace", "Repair"]

Config: TypeAlias = dict[str, Value]
Repair: TypeAlias = Callable[[Mapping[str, Value]], Mapping[str, Value]]
"""A legal configuration near one that may not be: bit widths, alignment, operators that a target has."""

_ROUNDS = 8


class ConfigSpace:
    """Genes, some of which exist only where others have certain values.

    A configuration names every gene that exists in it, and no other.

    Args:
        genes: In an order in which conditions look back only.
        repair: Makes a configuration legal; none leaves every one as it is.

    Raises:
        InvalidInput: no gene, two of one name, or a condition on what is not declared before.
    """

    def __init__(self, genes: Sequence[Gene | Conditional], repair: Repair | None = None) -> None:
        self._entries = tuple(g if isinstance(g, Conditional) else Conditional(g) for g in genes)
        self._repair = repair
        self.genes: dict[str, Gene] = {}
        for entry in self._entries:
            self._check(entry)
            self.genes[entry.gene.name] = entry.gene
        if not self.genes:
            raise InvalidInput("a space without genes", hint="give a Choice or a Float")
        self._deciding = {name for entry in self._entries for name in entry.when}

    def _check(self, entry: Conditional) -> None:
        if entry.gene.name in self.genes:
            raise InvalidInput(f"two genes named {entry.gene.name!r}", hint="give each a name of its own")
        for name, values in entry.when.items():
            parent = self.genes.get(name)
            if not isinstance(parent, Choice):
                raise InvalidInput(
                    f"gene {entry.gene.name!r} depends on {name!r}, which is no choice declared before it",
                    hint=_meant(name, [n for n, g in self.genes.items() if isinstance(g, Choice)]),
                )
            for value in values:
                if not parent.accepts(value):
                    raise InvalidInput(
                        f"gene {entry.gene.name!r} depends on {name} = {value!r}", hint=f"{name} is {parent.allowed}"
                    )

    def active(self, config: Mapping[str, Value]) -> list[Gene]:
        """Genes that exist in `config`, in their order."""
        return [entry.gene for entry in self._entries if entry.holds(config) and entry.gene.name in config]

    def completed(self, wanted: Mapping[str, Value], draw: Callable[[Gene], Value]) -> Config:
        """`wanted` with a drawn value for each gene that is missing, and without those that do not exist."""
        config: Config = {}
        for entry in self._entries:
            if entry.holds(config):
                name = entry.gene.name
                config[name] = wanted[name] if name in wanted else draw(entry.gene)
        return config

    def legal(self, wanted: Mapping[str, Value], rng: np.random.Generator) -> Config:
        """What operators made, completed at random and repaired."""
        return self.repair(self.completed(wanted, lambda gene: gene.sample(rng)))[0]

    def repair(self, config: Mapping[str, Value]) -> tuple[Config, dict[str, tuple[Value | None, Value | None]]]:
        """The legal configuration near `config`, and (before, after) of each gene that changed; None where it is not.

        What is legal stays as it is: the injected repair is asked until it changes nothing any more. A gene that comes
        to exist by it starts with its first value.

        Raises:
            InvalidInput: `config`, or what the injected repair made of it, is not of this space; or it never rests.
        """
        self.validate(config)
        before = self._canonical(config)
        now = before
        for _ in range(_ROUNDS if self._repair else 0):
            assert self._repair is not None
            after = self.completed(self._repair(dict(now)), lambda gene: gene.lowest)
            self.validate(after)
            after = self._canonical(after)
            if after == now:
                break
            now = after
        else:
            if self._repair:
                raise InvalidInput(
                    f"after {_ROUNDS} repairs a configuration still changes: {now}",
                    hint="a repair must leave what is legal as it is",
                )
        names = [name for name in self.genes if before.get(name) != now.get(name)]
        return now, {name: (before.get(name), now.get(name)) for name in names}

    def validate(self, config: Mapping[str, Any]) -> None:
        """Say what is wrong with `config`.

        Raises:
            InvalidInput: a gene is unknown, missing, does not exist here, or has a value that is not allowed.
        """
        if unknown := sorted(set(config) - set(self.genes)):
            raise InvalidInput(f"unknown gene {unknown[0]!r}", hint=_meant(unknown[0], list(self.genes)))
        for entry in self._entries:
            gene, exists = entry.gene, entry.holds(config)
            if exists and gene.name not in config:
                raise InvalidInput(f"gene {gene.name!r} is missing", hint=f"it is {gene.allowed}")
            if not exists and gene.name in config:
                when = " and ".join(f"{n} in {list(v)}" for n, v in entry.when.items())
                raise InvalidInput(f"gene {gene.name!r} does not exist here", hint=f"leave it out, or choose {when}")
            if exists and not gene.accepts(config[gene.name]):
                raise InvalidInput(f"gene {gene.name!r} cannot be {config[gene.name]!r}", hint=_allowed(gene, config))

    def key(self, config: Mapping[str, Value]) -> str:
        """What equal configurations share, whatever the order of their genes."""
        return canonical_digest(self._canonical(config))

    def size(self) -> float:
        """Configurations before repair; inf where a number may be among them."""
        total = 0.0
        for start in self._decisions():
            free = [gene for gene in self._existing(start) if gene.name not in start]
            total += prod((inf if isinstance(gene, Float) else gene.levels) for gene in free)
        return total if total == inf else int(total)

    def configurations(self) -> Iterator[Config]:
        """All of them before repair, in one order.

        Raises:
            InvalidInput: there is no end of them.
        """
        if self.size() == inf:
            raise InvalidInput("a space with numbers has no end of configurations", hint="use choices to list them")
        for start in self._decisions():
            free = [g for g in self._existing(start) if isinstance(g, Choice) and g.name not in start]
            for values in product(*(gene.values for gene in free)):
                chosen = start | {gene.name: value for gene, value in zip(free, values, strict=True)}
                yield {name: chosen[name] for name in self.genes if name in chosen}

    def describe(self) -> list[Any]:
        """Genes and conditions as JSON, by which a search knows its space again."""
        return [
            [type(e.gene).__name__, vars(e.gene) | {}, {n: list(v) for n, v in e.when.items()}] for e in self._entries
        ]

    def _existing(self, start: Mapping[str, Value]) -> list[Gene]:
        """Genes that exist where the deciding ones are `start`."""
        return [entry.gene for entry in self._entries if entry.holds(start)]

    def _decisions(self) -> Iterator[Config]:
        """Every assignment of the genes that others depend on."""
        starts: list[Config] = [{}]
        for entry in self._entries:
            gene = entry.gene
            if gene.name in self._deciding and isinstance(gene, Choice):
                starts = [made for start in starts for made in _extended(start, entry, gene)]
        yield from starts

    def _canonical(self, config: Mapping[str, Value]) -> Config:
        return {name: gene.canonical(config[name]) for name, gene in self.genes.items() if name in config}


def _extended(start: Config, entry: Conditional, gene: Choice) -> list[Config]:
    return [start | {gene.name: value} for value in gene.values] if entry.holds(start) else [start]


def _allowed(gene: Gene, config: Mapping[str, Any]) -> str:
    value = config[gene.name]
    texts = [v for v in gene.values if isinstance(v, str)] if isinstance(gene, Choice) else []
    near = get_close_matches(value, texts, n=1) if isinstance(value, str) else []
    return f"did you mean {near[0]!r}? It is {gene.allowed}" if near else f"it is {gene.allowed}"


def _meant(name: str, known: list[str]) -> str:
    near = get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known) or 'none'}"
