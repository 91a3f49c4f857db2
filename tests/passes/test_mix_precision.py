"""Who stays in float is the best choice there is, and the network answers as well as was asked."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.context import Budget, Context
from passes.contract import PassFailed
from passes.dataset import Dataset
from passes.onnx_level.mix_precision import Choice, MixPrecision, choose, front
from passes.onnx_level.quantize_int8 import QuantizeInt8
from passes.program import Program
from passes.proof import Decision
from passes.recipe import RECIPES
from passes.running import run
from targets.target import load_stack
from toolkit.models import entry
from toolkit.sources import load_source

pytestmark = pytest.mark.slow

STACK = load_stack("raspberry_pi_4/tflite-int8")
CHOICES = st.lists(
    st.tuples(st.floats(1e-9, 1e-2), st.floats(-1e-3, 1e-2)), min_size=1, max_size=8
).map(lambda rows: [Choice(f"layer {i}", noise, saving) for i, (noise, saving) in enumerate(rows)])  # fmt: skip


@pytest.fixture(scope="module")
def digits() -> tuple[Program, Dataset]:
    source = load_source("digits")
    program = run(RECIPES["float32"](STACK, source.program.level), source.program, Context(stack=STACK)).program
    return program, entry("digits").calibration().take(16)


def best_of_all(choices: list[Choice], most_noise: float) -> float:
    """The largest saving of any set of layers in integers that keeps to the noise, tried one by one."""
    found = 0.0
    for count in range(len(choices) + 1):
        for chosen in combinations(choices, count):
            if sum(c.noise for c in chosen) <= most_noise:
                found = max(found, sum(c.saving for c in chosen))
    return found


@given(CHOICES, st.floats(1e-9, 3e-2))
@settings(deadline=None)
def test_no_other_choice_within_the_noise_saves_more(choices: list[Choice], most_noise: float) -> None:
    in_float = choose(choices, most_noise)
    integers = [c for c in choices if c.name not in in_float]
    assert sum(c.noise for c in integers) <= most_noise * (1 + 1e-5)
    assert sum(c.saving for c in integers) >= best_of_all(choices, most_noise) * (1 - 1e-5) - 1e-12


@given(CHOICES)
def test_the_front_goes_from_all_integers_to_none(choices: list[Choice]) -> None:
    points = list(front(choices))
    noises = [noise for _, noise, _ in points]
    assert [count for count, _, _ in points] == list(range(len(choices) + 1))
    assert noises == sorted(noises, reverse=True)
    assert points[0][1:] == (pytest.approx(sum(c.noise for c in choices)), 0.0)
    assert points[-1][1] == pytest.approx(0.0, abs=1e-12)
    assert points[-1][2] == pytest.approx(sum(c.saving for c in choices))


def test_answers_come_as_close_as_was_asked_and_more_costs_more(digits: tuple[Program, Dataset]) -> None:
    program, data = digits
    ctx = Context(stack=STACK, data=data)
    seconds = []
    for wanted in (30.0, 37.0, 44.0):
        after, proof = MixPrecision(sqnr_db=wanted)(program, ctx)
        assert proof.decision is Decision.KEPT
        assert proof.worst_sqnr_db >= wanted - 1.5  # noises that add up in power, to first order
        assert proof.cost_s is not None
        seconds.append(proof.cost_s[1])
        assert any(node.op_type == "QuantizeLinear" for node in after.graph)
    assert seconds == sorted(seconds)
    assert seconds[-1] < proof.cost_s[0]


def test_it_is_no_slower_than_leaving_out_layers_in_turn(digits: tuple[Program, Dataset]) -> None:
    """At equal quality beside QuantizeInt8, which leaves out the most harmful until the budget holds."""
    program, data = digits
    ctx = Context(stack=STACK, data=data, budget=Budget(min_sqnr_db=34.5))
    _, mixed = MixPrecision(sqnr_db=34.5)(program, ctx)
    _, in_turn = QuantizeInt8()(program, ctx)
    assert mixed.decision in (Decision.KEPT, Decision.NARROWED)
    assert mixed.worst_sqnr_db >= 34.5
    assert mixed.cost_s is not None
    assert in_turn.cost_s is not None
    assert mixed.cost_s[1] <= in_turn.cost_s[1]


@pytest.mark.parametrize("least", ["latency", "size", "energy"])
def test_the_front_is_told_in_the_unit_that_is_minimised(digits: tuple[Program, Dataset], least: str) -> None:
    program, data = digits
    _, proof = MixPrecision(least=least)(program, Context(stack=STACK, data=data))  # type: ignore[arg-type]
    unit = {"latency": "ms", "size": "kB", "energy": "mJ"}[least]
    assert len(proof.notes) > 3
    assert all(note.endswith(unit) and "dB expected" in note for note in proof.notes)
    expected = [float(note.split(":")[1].split()[0]) for note in proof.notes]
    assert expected == sorted(expected)


def test_without_samples_nothing_is_chosen(digits: tuple[Program, Dataset]) -> None:
    with pytest.raises(PassFailed, match="no calibration data"):
        MixPrecision()(digits[0], Context(stack=STACK))


def test_the_same_twice(digits: tuple[Program, Dataset]) -> None:
    program, data = digits
    first, second = (
        MixPrecision(sqnr_db=37)(program.with_facts(program.facts, None), Context(stack=STACK, data=data))[0]
        for _ in range(2)
    )
    assert first.onnx_bytes == second.onnx_bytes
