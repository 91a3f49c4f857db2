"""Spaces of configurations: what is in them, what operators reach, and what people are told of a wrong one."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.errors import InvalidInput
from toolkit.search.config_space import ConfigSpace
from toolkit.search.genes import Choice, Conditional, Float
from toolkit.search.variation import (
    block_moved,
    crossed,
    mutated,
    neighbours,
    sample_stratified,
    sample_uniform,
)


def only_even_ranks(config):
    """Where weights have 4 bits a rank is 2 or 8, and nothing is pruned beyond a half."""
    legal = dict(config)
    if legal["layers.0.bits"] == 4 and legal.get("layers.0.rank") == 4:
        legal["layers.0.rank"] = 8
    if legal["layers.0.bits"] == 4 and legal["prune"] > 0.5:
        legal["prune"] = 0.5
    return legal


GENES = [
    Choice("layers.0.bits", (4, 8, 16)),
    Choice("layers.1.bits", (4, 8, 16)),
    Choice("factorize", (False, True)),
    Conditional(Choice("layers.0.rank", (2, 4, 8)), when={"factorize": [True]}),
    Choice("runtime", ("plain", "xnnpack", "arm"), ordered=False),
    Float("prune", 0.0, 0.9),
]
SPACE = ConfigSpace(GENES, only_even_ranks)
DISCRETE = ConfigSpace(GENES[:-1])
GOOD = {"layers.0.bits": 8, "layers.1.bits": 4, "factorize": False, "runtime": "arm", "prune": 0.25}


def operators(space, seed):
    rng = np.random.default_rng(seed)
    a, b = sample_uniform(space, rng), sample_stratified(space, rng)
    return [a, b, mutated(space, a, rng), block_moved(space, b, rng), crossed(space, a, b, rng, 0.5),
            *neighbours(space, a)]  # fmt: skip


@given(st.integers(0, 2**32))
@settings(deadline=None)
def test_all_operators_stay_in_the_space_and_are_legal(seed):
    for config in operators(SPACE, seed):
        SPACE.validate(config)
        assert only_even_ranks(config) == config
        assert ("layers.0.rank" in config) == config["factorize"]


@given(st.integers(0, 2**32))
@settings(deadline=None)
def test_repair_leaves_alone_what_it_repaired_and_says_what_it_changed(seed):
    wild = sample_uniform(ConfigSpace(GENES), np.random.default_rng(seed))
    repaired, changes = SPACE.repair(wild)
    assert SPACE.repair(repaired) == (repaired, {})
    for name, (before, after) in changes.items():
        assert wild.get(name) == before != after == repaired.get(name)
    assert {n: v for n, v in wild.items() if n not in changes} == {
        n: v for n, v in repaired.items() if n not in changes
    }


def test_repair_by_hand():
    wild = GOOD | {"layers.0.bits": 4, "prune": 0.75}
    assert SPACE.repair(wild) == (wild | {"prune": 0.5}, {"prune": (0.75, 0.5)})


def test_a_repair_that_never_rests_is_named():
    flipping = ConfigSpace([Choice("a", (0, 1))], lambda config: {"a": 1 - int(config["a"])})
    with pytest.raises(InvalidInput, match="after 8 repairs a configuration still changes"):
        flipping.repair({"a": 0})


def test_mutation_reaches_every_configuration():
    space = ConfigSpace(
        [Choice("a", (1, 2, 3)), Choice("b", (1, 2, 3, 4)), Choice("c", ("x", "y", "z"), ordered=False)]
    )
    rng = np.random.default_rng(0)
    reached = {space.key(start): start for start in [{"a": 1, "b": 1, "c": "x"}]}
    edges: dict[str, set[str]] = {}
    waiting = list(reached)
    while waiting:
        key = waiting.pop()
        for _ in range(60):
            child = mutated(space, reached[key], rng)
            name = space.key(child)
            edges.setdefault(key, set()).add(name)
            if name not in reached:
                reached[name] = child
                waiting.append(name)
    assert len(reached) == space.size() == 36
    assert all(len(children) > 1 for children in edges.values())


def test_neighbours_are_one_step_away():
    space = ConfigSpace([Choice("a", (1, 2, 3)), Choice("c", ("x", "y", "z"), ordered=False)])
    assert neighbours(space, {"a": 1, "c": "y"}) == [{"a": 2, "c": "y"}, {"a": 1, "c": "x"}, {"a": 1, "c": "z"}]
    plain = {name: value for name, value in GOOD.items() if name != "prune"}
    [factorized] = [config for config in neighbours(DISCRETE, plain) if config["factorize"]]
    assert factorized == plain | {"factorize": True, "layers.0.rank": 2}


def test_a_block_moves_one_group_in_one_direction():
    space = ConfigSpace([Choice(f"layers.{k}.bits", (2, 4, 8, 16)) for k in range(10)] +
                        [Choice(f"layers.{k}.rank", (1, 2, 3)) for k in range(10)])  # fmt: skip
    start = {name: gene.values[1] for name, gene in space.genes.items()}
    rng, moved_shares = np.random.default_rng(1), []
    for _ in range(200):
        moved = block_moved(space, start, rng)
        changed = [name for name in start if moved[name] != start[name]]
        assert len({name.rpartition(".")[2] for name in changed}) == 1
        assert len({moved[name] > start[name] for name in changed}) == 1
        moved_shares.append(len(changed) / 10)
    assert 0.5 < np.mean(moved_shares) < 0.72


def test_stratified_networks_differ_more_than_even_ones():
    space = ConfigSpace([Choice(f"layers.{k}.bits", (2, 4, 8, 16)) for k in range(24)])
    rng = np.random.default_rng(0)
    spread = {
        draw: np.std([sum(int(v) for v in draw(space, rng).values()) for _ in range(300)])
        for draw in (sample_uniform, sample_stratified)
    }
    assert spread[sample_stratified] > 2.5 * spread[sample_uniform]


def test_equal_configurations_have_one_key():
    backwards = dict(reversed(GOOD.items()))
    assert SPACE.key(backwards) == SPACE.key(GOOD)
    assert SPACE.key(GOOD | {"layers.0.bits": 8.0, "factorize": 0}) == SPACE.key(GOOD)
    assert SPACE.key(GOOD | {"prune": 0.26}) != SPACE.key(GOOD)


def test_the_size_counts_what_can_be_listed():
    every = list(DISCRETE.configurations())
    assert len({DISCRETE.key(config) for config in every}) == len(every) == DISCRETE.size() == 9 * 3 * (1 + 3)
    for config in every:
        DISCRETE.validate(config)
    ranks = [c.get("layers.0.rank") for c in every if c["factorize"]]
    assert set(product(ranks, [0])) == {(2, 0), (4, 0), (8, 0)}
    assert SPACE.size() == float("inf")
    with pytest.raises(InvalidInput, match="no end of configurations"):
        next(SPACE.configurations())


@pytest.mark.parametrize(
    ("change", "problem", "hint"),
    [
        ({"layers.0.bit": 4}, "unknown gene 'layers.0.bit'", "did you mean 'layers.0.bits'?"),
        ({"layers.0.bits": 5}, "gene 'layers.0.bits' cannot be 5", "it is one of 4, 8, 16"),
        ({"runtime": "xnpack"}, "gene 'runtime' cannot be 'xnpack'", "did you mean 'xnnpack'?"),
        ({"prune": 0.95}, "gene 'prune' cannot be 0.95", "a number from 0 to 0.9"),
        ({"prune": float("nan")}, "gene 'prune' cannot be nan", "a number from 0 to 0.9"),
        ({"prune": None}, "gene 'prune' cannot be None", "a number from 0 to 0.9"),
        ({"layers.0.rank": 2}, "gene 'layers.0.rank' does not exist here", "factorize in [True]"),
        ({"factorize": True}, "gene 'layers.0.rank' is missing", "one of 2, 4, 8"),
        ({"layers.1.bits": [4]}, "gene 'layers.1.bits' cannot be [4]", "one of 4, 8, 16"),
    ],
)
def test_wrong_configurations_are_told_from_right_ones(change, problem, hint):
    SPACE.validate(GOOD)
    with pytest.raises(InvalidInput) as caught:
        SPACE.validate(GOOD | change)
    assert problem in caught.value.problem
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: Choice("a", ()), "cannot choose among"),
        (lambda: Choice("a", (1, 1.0)), "cannot choose among"),
        (lambda: Choice("a", (None,)), "cannot choose among"),
        (lambda: Float("a", 1.0, 1.0), "cannot go from 1.0 to 1.0"),
        (lambda: Float("a", 0.0, 1.0, log=True), "by factors"),
        (lambda: ConfigSpace([]), "without genes"),
        (lambda: ConfigSpace([Choice("a", (1,)), Choice("a", (2,))]), "two genes named 'a'"),
        (lambda: ConfigSpace([Conditional(Choice("a", (1,)), {"b": [1]})]), "no choice declared before"),
        (lambda: ConfigSpace([Choice("b", (1, 2)), Conditional(Choice("a", (1,)), {"b": [3]})]), "depends on b = 3"),
    ],
)  # fmt: skip
def test_wrong_spaces(make, problem):
    with pytest.raises(InvalidInput, match=problem):
        make()
