"""Who is born and who dies, and what fitness says: by hand, and as properties."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from targets.errors import InvalidInput
from toolkit.rng import torch_generator, uniform
from toolkit.training.organism.fitness import (
    Price,
    check_apart,
    leave_one_out,
    rank_correlation,
    rotated,
    silenced,
)
from toolkit.training.organism.lifecycle import (
    Birth,
    ComponentView,
    Phase,
    Phases,
    PoolView,
    decide_births,
    decide_deaths,
    unfit,
)
from toolkit.training.organism.stability import Annealing

COLD = Annealing(start=1e-6, floor=1e-6, steps=100)


def pool(*fitness: float, ages: tuple[int, ...] = (), fading: str = "", least: int = 1, most: int = 64) -> PoolView:
    """Components a, b, c ... whose relative fitness is their fitness."""
    views = tuple(
        ComponentView(component_id=name, age=age, fitness=f, relative=f, is_fading=name in fading)
        for name, f, age in zip("abcdefghijklmnop", fitness, ages or (1000,) * len(fitness), strict=False)
    )
    return PoolView(components=views, min_size=least, max_size=most, grace=200)


def births(view: PoolView, phase: Phase = Phase.FULL, **given: object) -> list[Birth]:
    named: dict[str, object] = {"gate_open": True, "admitted": True, "annealing": COLD, "draw": partial(uniform, 0),
                                "parent": ("elite", 1.0), **given}  # fmt: skip
    return decide_births(view, 100, phase, **named)  # type: ignore[arg-type]


def deaths(view: PoolView, phase: Phase = Phase.FULL, *, is_open: bool = True) -> list[str]:
    found = decide_deaths(view, 100, phase, gate_open=is_open, annealing=COLD, draw=partial(uniform, 0))
    return [death.component_id for death in found]


# ---- phases


def test_phases_scale_with_the_run() -> None:
    phases = Phases()
    assert [phases.at(step, 1000) for step in (0, 99, 100, 499, 500, 999)] == [
        Phase.WARM_UP, Phase.WARM_UP, Phase.GENTLE, Phase.GENTLE, Phase.FULL, Phase.FULL,
    ]  # fmt: skip
    assert phases.at(6, 10) is Phase.FULL, "short runs come to the last phase too"
    whole = Phases(warm_up=5, gentle=10)
    assert [whole.at(step, 10_000) for step in (4, 5, 14, 15)] == [
        Phase.WARM_UP, Phase.GENTLE, Phase.GENTLE, Phase.FULL,
    ]  # fmt: skip
    with pytest.raises(InvalidInput):
        Phases(warm_up=1.5)


# ---- births


def test_a_birth_wants_a_phase_a_gate_room_and_a_parent_that_is_worth_it() -> None:
    view = pool(0.1, 0.2, 0.3)
    assert births(view) == births(view, Phase.GENTLE) == [Birth("elite")]
    assert births(view, Phase.WARM_UP) == []
    assert births(view, gate_open=False) == []
    assert births(view, admitted=False) == []
    assert births(pool(0.1, 0.2, 0.3, most=3)) == []
    assert births(view, parent=("elite", -5.0)) == [], "far below the pool, and cold"
    assert births(view, parent=None) == [Birth(None)]


def test_while_it_is_hot_a_lesser_parent_is_taken_as_often_as_the_temperature_says() -> None:
    hot = Annealing(start=1.0, steps=10**9)
    view = pool(0.0, 1.0, 2.0)  # spread 1.4826, median 1
    taken = sum(
        bool(births(view, annealing=hot, draw=partial(uniform, seed), parent=("elite", 1.0 - 1.4826)))
        for seed in range(2000)
    )
    assert taken / 2000 == pytest.approx(0.368, abs=0.033), "exp(-1), three standard errors"


# ---- deaths


def test_only_old_unfit_ones_in_the_last_phase_die_worst_first() -> None:
    view = pool(0.1, -2.0, 0.2, -3.0)
    assert deaths(view) == ["d", "b"]
    assert deaths(view, Phase.GENTLE) == []
    assert deaths(view, is_open=False) == []
    assert deaths(pool(0.1, -2.0, 0.2, -3.0, ages=(1000, 1000, 1000, 200))) == ["b"], "in its grace"
    assert deaths(pool(0.1, -2.0, 0.2, -3.0, fading="d")) == ["b"]
    assert deaths(pool(0.1, -2.0, 0.2, -3.0, least=3)) == ["d"]


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=12), st.integers(1, 12), st.integers(0, 99))
def test_deaths_never_go_below_the_smallest_pool(fitness: list[float], least: int, seed: int) -> None:
    view = pool(*fitness, least=least)
    found = decide_deaths(
        view, 7, Phase.FULL, gate_open=True, annealing=Annealing(steps=10), draw=partial(uniform, seed)
    )
    assert len(view.components) - len(found) >= min(least, len(view.components))
    assert {death.component_id for death in found} <= {one.component_id for one in unfit(view)}


def test_equals_go_the_older_first_then_by_id() -> None:
    view = pool(-2.0, -2.0, -2.0, ages=(500, 900, 500))
    assert [one.component_id for one in unfit(view)] == ["b", "a", "c"]


# ---- fitness


def test_what_hurts_by_construction_when_it_is_left_out_ranks_first_and_the_dead_are_worth_nought() -> None:
    gates = {name: torch.tensor(value) for name, value in (("a", 1.0), ("b", 1.0), ("c", 1.0), ("dead", 0.0))}
    shares = {"a": 0.2, "b": 3.0, "c": -0.5, "dead": 9.0}
    x = torch.randn(64, generator=torch_generator(0, "x"))
    target = x * 3.0

    def loss() -> float:
        answer = x * sum(float(gates[name]) * share for name, share in shares.items())
        return float((answer - target).square().mean())

    before = {name: gate.clone() for name, gate in gates.items()}
    found = leave_one_out(loss, gates, list(gates))
    assert max(found, key=lambda name: found[name]) == "b"
    assert found["dead"] == 0
    assert all(torch.equal(before[name], gates[name]) for name in gates)
    assert set(leave_one_out(loss, gates, ["a"])) == {"a"}


def test_a_gate_is_put_back_to_the_bit_even_where_the_loss_fails() -> None:
    gate = torch.tensor(0.1234567)
    with pytest.raises(ZeroDivisionError), silenced(gate):
        raise ZeroDivisionError
    assert gate == torch.tensor(0.1234567)


@given(st.floats(1e-6, 10), st.floats(0.001, 1), st.floats(0, 100))
def test_the_price_rises_while_it_is_too_slow_falls_while_it_is_fast_and_is_never_negative(
    wanted: float, rate: float, start: float
) -> None:
    assert Price(wanted, start, rate).follow(2 * wanted) == pytest.approx(start + rate)
    assert 0 <= Price(wanted, start, rate).follow(wanted / 2) <= start
    assert Price(wanted, start, rate).follow(wanted) == start
    assert Price(None, start, rate).follow(99.0) == start


def test_a_constant_ranks_like_nothing() -> None:
    assert rank_correlation([1, 1, 1], [1, 2, 3]) == 0
    assert rank_correlation([1, 2], [1, 2]) == 0


@given(st.integers(1, 40), st.integers(1, 16))
def test_a_round_of_turns_asks_everyone(count: int, most: int) -> None:
    names = [f"c{k:02}" for k in range(count)]
    turns = -(-count // most)
    asked = [rotated(names, turn, most) for turn in range(turns)]
    assert {name for turn in asked for name in turn} == set(names)
    assert all(len(set(turn)) == len(turn) == min(most, count) for turn in asked)


def test_a_fitness_shares_no_input_with_the_axes_of_its_archive() -> None:
    check_apart({"leave_one_out", "latency_s"}, {"span", "sparsity"})
    with pytest.raises(InvalidInput, match="gradient_share"):
        check_apart({"gradient_share"}, {"span", "gradient_share"})
