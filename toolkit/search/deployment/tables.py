"""Prices without a graph: what each layer's choice adds, and each pair of neighbours, tabulated once and summed.

A candidate of a search is then priced in microseconds. Sums are exact where what two layers cost together depends on
those two alone; where three meet, or where memory peaks elsewhere, they are not. Networks that something was taken out
of are made all in integers and all in float, and mixtures are taken to lie between; of large networks only those that
lose least and most are made, and the others taken to lie between. `Tables.error` says by how much they do not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from passes.onnx_level.sites import Unit, units
from passes.onnx_level.unrounding import in_float
from passes.program import Program
from targets.stack import Stack
from targets.target import digest_of
from toolkit.search.deployment.making import Workshop, blocks_of, layer_in, module_of
from toolkit.search.deployment.prices import MEASURES, priced
from toolkit.search.deployment.recipes import FLOAT_BITS, bits_gene
from toolkit.search.deployment.space import mixes
from toolkit.search.deployment.structures import STRUCTURE, Progress, silent, structures_of
from toolkit.search.genes import Value
from toolkit.search.measures import Floats

__all__ = ["Tables"]


@dataclass(frozen=True)
class _Table:
    """Of the whole network on one stack: (m,) with all layers in integers and with all in float, what each block in
    float adds (blocks, m), and what neighbours in float add or save together (pairs, m)."""

    base: Floats
    floats: Floats
    single: Floats
    pairs: NDArray[np.intp]
    together: Floats

    def added(self, is_float: NDArray[np.bool_]) -> Floats:
        """What choices (n, blocks) add to the network in integers, (n, m)."""
        both = is_float[:, self.pairs[:, 0]] & is_float[:, self.pairs[:, 1]]
        found: Floats = is_float @ self.single + both @ self.together
        return found


class Tables:
    """Measures of configurations in the order of MEASURES, by sums; tables are made when first asked for."""

    def __init__(self, workshop: Workshop, stacks: Sequence[Stack], progress: Progress = silent) -> None:
        self._workshop, self._stacks, self._progress = workshop, {stack.name: stack for stack in stacks}, progress
        self._first = stacks[0]
        self._mixed = {stack.name for stack in stacks if mixes(stack)}
        self._structures = structures_of(workshop, self._first)
        self.blocks = list(blocks_of(workshop.floating({}, self._first)).items())
        self._held: dict[tuple[object, ...], Any] = {}
        self.priced = 0
        """Configurations that were asked for so far."""
        self._genes = [bits_gene(name) for name, _ in self.blocks]

    def measures(self, configs: Sequence[Mapping[str, Value]]) -> Floats:
        """(n, 5) of `configs`."""
        self.priced += len(configs)
        found = np.empty((len(configs), len(MEASURES)))
        groups: dict[tuple[Value, ...], list[int]] = {}
        for row, config in enumerate(configs):
            key = (
                config["stack"],
                config.get("weight_bits", FLOAT_BITS),
                config.get("scales", ""),
                *(config.get(name, "") for name in STRUCTURE),
            )
            groups.setdefault(key, []).append(row)
        for done, rows in enumerate(groups.values()):
            self._progress("what each layer costs", done / len(groups))
            is_float = self._in_float([configs[row] for row in rows])
            found[rows] = self._measured(_in_integers(configs[rows[0]]), is_float)
        return found

    def _measured(self, config: Mapping[str, Value], is_float: NDArray[np.bool_]) -> Floats:
        """Between the structures that are made; what layers in float add to those is that of the whole network, so
        scaled that with all of them in float it is what was found there."""
        stack, whole = self._stack(config), _of_the_whole(config)
        table = self._table(whole, stack)
        added, all_added = table.added(is_float), table.floats - table.base
        found = np.zeros((len(is_float), len(MEASURES)))
        for structure, weight in self._structures.near(config):
            base, floats = table.base, table.floats
            if structure:
                base, floats = np.array(self._kept("ends", whole | structure, stack, self._ends))
            scale = np.divide(floats - base, all_added, out=np.ones_like(base), where=all_added != 0)
            found += weight * (base + scale * added)
        return found

    def error(self, configs: Sequence[Mapping[str, Value]], true: Floats | None = None) -> Floats:
        """(5,) the largest error of the sums on `configs`: relative, but of sparsity, a share, the difference.

        Args:
            true: Measures of `configs`, (n, 5); each is made and priced for real where None.
        """
        if true is None:
            stacks = [self._stack(config) for config in configs]
            programs = map(self._workshop.made, configs, stacks)
            true = np.concatenate([_numbers(p, [s], quick=False) for p, s in zip(programs, stacks, strict=True)])
        one = np.where([measure.larger_is == "neutral" for measure in MEASURES], 1.0, np.maximum(np.abs(true), 1e-12))
        wrong = np.abs(self.measures(configs) - true) / one
        worst: Floats = wrong.max(0)
        return worst

    def _in_float(self, configs: Sequence[Mapping[str, Value]]) -> NDArray[np.bool_]:
        return np.array([[config.get(gene) == FLOAT_BITS for gene in self._genes] for config in configs], np.bool_)

    def _stack(self, config: Mapping[str, Value]) -> Stack:
        return self._stacks[str(config["stack"])]

    def _table(self, config: Mapping[str, Value], stack: Stack) -> _Table:
        count = len(MEASURES)
        if stack.name not in self._mixed:
            base, floats = np.array(self._kept("ends", config, stack, self._ends))
            none = np.zeros((len(self.blocks), count))
            return _Table(base, floats, none, np.empty((0, 2), np.intp), np.empty((0, count)))
        found = self._kept("layers", config, stack, self._layers)
        base, floats, single, together = (
            np.array(found[name], float) for name in ("base", "floats", "single", "together")
        )
        pairs = np.array(found["pairs"], np.intp).reshape(-1, 2)
        return _Table(base, floats, single.reshape(-1, count), pairs, together.reshape(-1, count))

    def _kept(
        self, what: str, config: Mapping[str, Value], stack: Stack, make: Callable[[Mapping[str, Value], Stack], Any],
    ) -> Any:  # fmt: skip
        """A document about `config`, which may have been made for other stacks as well."""
        held = what, stack.name, tuple(config.items())
        if held not in self._held:
            key = self._key(what, config, stack)
            self._held[held] = self._workshop.kept.found(key, lambda: make(config, stack))
        return self._held[held]

    def _key(self, what: str, config: Mapping[str, Value], stack: Stack) -> str:
        plain = {name: value for name, value in config.items() if name != "stack"}
        return self._workshop.key(what, [plain, digest_of(stack), digest_of(self._shaped_for(stack))])

    def _shaped_for(self, stack: Stack) -> Stack:
        """The stack that decides what is taken out of the network: many share the ends of a large one."""
        return stack if self._structures.is_each_made else self._first

    def _ends(self, config: Mapping[str, Value], stack: Stack) -> list[list[float]]:
        """Measures with all layers as the configuration has them, and with all in float."""
        start = self._workshop.floating(config, self._shaped_for(stack))
        lowered = self._workshop.sketch(config, stack, shaped_for=self._shaped_for(stack))
        return [_numbers(program, [stack])[0].tolist() for program in (lowered, start)]

    def _layers(self, config: Mapping[str, Value], stack: Stack) -> dict[str, Any]:
        """Of the whole network: what each block adds in float, and what two neighbours cost beyond what each does.

        Stacks that get the same graph are priced with it at once.
        """
        program, start = self._workshop.sketch(config, stack), self._workshop.floating(config, stack)
        twins = self._twins(config, stack, program)
        price = self._prices(config, twins, start, program)
        base, floats = price(()), _numbers(start, twins)
        single = [price((k,)) - base for k in range(len(self.blocks))]
        pairs = _neighbours(start, self.blocks)
        together = [price(pair) - base - single[pair[0]] - single[pair[1]] for pair in pairs]
        for k, twin in enumerate(twins):
            mine = {"base": base[k].tolist(), "floats": floats[k].tolist(), "pairs": pairs,
                    "single": [each[k].tolist() for each in single],
                    "together": [each[k].tolist() for each in together]}  # fmt: skip
            self._workshop.kept.put(self._key("layers", config, twin), mine)
        found: dict[str, Any] = self._workshop.kept.get(self._key("layers", config, stack))
        return found

    def _twins(self, config: Mapping[str, Value], stack: Stack, program: Program) -> list[Stack]:
        """`stack` and those others that would get the same graphs."""
        if config.get("scales") == "dynamic":
            return [stack]
        mixed = [other for other in self._stacks.values() if other.name in self._mixed]
        return [s for s in mixed if s is stack or self._workshop.sketch(config, s).digest == program.digest]

    def _prices(
        self, config: Mapping[str, Value], stacks: Sequence[Stack], start: Program, program: Program
    ) -> Callable[[tuple[int, ...]], Floats]:
        """Measures (stacks, m) with these blocks in float, each choice priced once."""
        if config.get("scales") == "dynamic":  # no roundings stand in the graph that could be taken out one by one
            made = self._workshop.made
            return cache(lambda blocks: _numbers(made(self._with_float(config, blocks), stacks[0]), stacks))
        changed = units(start, program, by="reader")
        names = self._units(changed)

        @cache
        def price_of(chosen: tuple[str, ...]) -> Floats:
            return _numbers(in_float(program, changed, chosen) if chosen else program, stacks)

        return lambda blocks: price_of(tuple(name for block in blocks for name in names[block]))

    def _with_float(self, config: Mapping[str, Value], blocks: Sequence[int]) -> dict[str, Value]:
        return dict(config) | {self._genes[k]: FLOAT_BITS for k in blocks}

    def _units(self, changed: Sequence[Unit]) -> list[list[str]]:
        """For each block the units that it is made of."""
        found: list[list[str]] = [[] for _ in self.blocks]
        for unit in changed:
            if unit.weights and (at := _block_of(unit.module or unit.node, self.blocks)) is not None:
                found[at].append(unit.name)
        return found


def _in_integers(config: Mapping[str, Value]) -> dict[str, Value]:
    """`config` with every layer in integers, and what changes no price as it is quickest to make."""
    plain = {name: 8 if name.startswith("layers.") else value for name, value in config.items()}
    quickest: Mapping[str, Value] = {"ranges": "minmax", "correct_bias": False}
    return plain | {name: value for name, value in quickest.items() if name in config}


def _of_the_whole(config: Mapping[str, Value]) -> dict[str, Value]:
    return {name: value for name, value in config.items() if name not in STRUCTURE}


def _numbers(program: Program, stacks: Sequence[Stack], *, quick: bool = True) -> Floats:
    """Measures (stacks, m) of one program."""
    found = [priced(program, stack, quick=quick).measures for stack in stacks]
    return np.array([[measures[measure.name] for measure in MEASURES] for measures in found])


_Blocks = Sequence[tuple[str, Sequence[str]]]


def _block_of(module: str, blocks: _Blocks) -> int | None:
    return next((k for k, (_, layers) in enumerate(blocks) if layer_in(module, layers)), None)


def _neighbours(program: Program, blocks: _Blocks) -> list[tuple[int, int]]:
    """Pairs of blocks of which one reads what the other made, with nothing but operators without weights between, or
    whose results meet."""
    pairs: set[tuple[int, int]] = set()
    behind: dict[str, frozenset[int]] = {}
    for node in program.graph:
        makers = frozenset().union(*(behind.get(str(v.name), frozenset()) for v in node.inputs if v is not None))
        own = _block_of(module_of(node), blocks)
        if own is not None and any(v is not None and v.const_value is not None for v in node.inputs[1:2]):
            pairs |= {(min(a, own), max(a, own)) for a in makers if a != own}
            makers = frozenset({own})
        pairs |= {(a, b) for a in makers for b in makers if a < b}
        for value in node.outputs:
            behind[str(value.name)] = makers
    return sorted(pairs)
