"""Whatever happens to a pool, its limits hold and its log says what happened."""

from __future__ import annotations

import gc
import threading
import weakref
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from toolkit.errors import BudgetExceeded
from toolkit.organism.errors import LifecycleError
from toolkit.organism.pool import Pool
from toolkit.organism.records import ComponentRecord

MOST, LEAST, BUDGET, GRACE = 6, 2, 100, 5


@dataclass(eq=False)
class One:
    """A component that fades, and remembers how far."""

    component_id: str
    fitness: float = 0.0
    nbytes: int = 10
    left: int = 0

    def reset(self) -> None:
        self.fitness = 0.0

    def begin_fade(self, steps: int) -> None:
        self.left = steps

    def advance_fade(self) -> bool:
        self.left -= 1
        return self.left <= 0

    def to_record(self) -> ComponentRecord:
        return ComponentRecord("one", 1, {"id": self.component_id}, {"fitness": np.array(self.fitness)})

    @classmethod
    def from_record(cls, record: ComponentRecord, *, device: str = "cpu", dtype: Any = None) -> Self:
        return cls(record.header["id"], float(record.tensors["fitness"]))


class Machine(RuleBasedStateMachine):
    """Operations at random; a plain set of ids is what the pool is held against."""

    def __init__(self) -> None:
        super().__init__()
        self.pool: Pool[One] = Pool(budget_bytes=BUDGET, max_size=MOST, min_size=LEAST, grace_steps=GRACE)
        self.step, self.known, self.told = 0, {}, []
        self.pool.on_birth.append(lambda c: self.told.append(("birth", c.component_id)))
        self.pool.on_death.append(lambda c: self.told.append(("death", c.component_id)))
        for _ in range(LEAST):
            self.born(10, 0.0)

    @rule(nbytes=st.integers(1, 60), fitness=st.sampled_from([-1.0, 0.0, 1.0]))
    def born(self, nbytes: int, fitness: float) -> None:
        one = One(self.pool.next_id(), fitness, nbytes)
        if self.pool.admit(nbytes):
            self.pool.add(one, step=self.step)
            self.known[one.component_id] = self.step
        else:
            with pytest.raises(BudgetExceeded):
                self.pool.add(one, step=self.step)

    @rule(steps=st.integers(1, 8))
    def time_passes(self, steps: int) -> None:
        self.step += steps

    @rule(which=st.integers(0, MOST - 1))
    def removed(self, which: int) -> None:
        name = self.pool.ids[which % len(self.pool)]
        living = [m for m in self.pool.members if not m.is_fading]
        if self.pool.member(name).is_fading or len(living) > LEAST:
            assert self.pool.remove(name, step=self.step, reason="asked").component_id == name
            del self.known[name]
        else:
            with pytest.raises(LifecycleError, match="have to stay"):
                self.pool.remove(name, step=self.step, reason="asked")

    @rule(which=st.integers(0, MOST - 1), steps=st.integers(1, 3))
    def fades(self, which: int, steps: int) -> None:
        name = self.pool.ids[which % len(self.pool)]
        living = [m for m in self.pool.members if not m.is_fading]
        if self.pool.member(name).is_fading or len(living) > LEAST:
            self.pool.fade(name, steps=steps)
            assert self.pool.member(name).is_fading
        else:
            with pytest.raises(LifecycleError, match="have to stay"):
                self.pool.fade(name, steps=steps)

    @rule()
    def fading_goes_on(self) -> None:
        due = {m.component.component_id for m in self.pool.members if m.is_fading and m.component.left == 1}
        assert set(self.pool.advance(step=self.step)) == due
        for name in due:
            del self.known[name]

    @rule(fraction=st.sampled_from([0.0, 0.2, 0.5, 1.0]))
    def culled(self, fraction: float) -> None:
        fading = {m.component.component_id for m in self.pool.members if m.is_fading}
        size, living = len(self.pool), len(self.pool) - len(fading)
        old = {n for n, born in self.known.items() if self.step - born > GRACE} - fading
        gone = self.pool.cull_worst(fraction, step=self.step)
        assert len(gone) == max(0, min(int(fraction * size), living - LEAST, len(old)))
        assert set(gone) <= old
        for name in gone:
            del self.known[name]

    @rule(measured=st.integers(0, 250))
    def budget_is_enforced(self, measured: int) -> None:
        before, sizes = self.pool.ids, {c.component_id: c.nbytes for c in self.pool}
        try:
            gone = self.pool.enforce_budget(measured, step=self.step)
        except BudgetExceeded:
            assert self.pool.ids == before
            return
        assert measured - sum(sizes[name] for name in gone) <= BUDGET
        for name in gone:
            del self.known[name]

    @invariant()
    def limits_hold(self) -> None:
        assert sum(not m.is_fading for m in self.pool.members) >= LEAST
        assert len(self.pool) <= MOST
        assert self.pool.nbytes <= BUDGET
        assert self.pool.ids == tuple(sorted(self.known))
        assert [c.component_id for c in self.pool] == sorted(self.known)

    @invariant()
    def log_tells_all(self) -> None:
        assert [(event.kind, event.component_id) for event in self.pool.log] == self.told
        living = set()
        for event in self.pool.log:
            (living.add if event.kind == "birth" else living.remove)(event.component_id)
            assert event.reason
        assert living == set(self.known)


Machine.TestCase.settings = settings(stateful_step_count=30, deadline=None)
TestPool = Machine.TestCase


def pool_of(*fitness: float, grace: int = 0, **options: Any) -> Pool[One]:
    pool: Pool[One] = Pool(budget_bytes=10**6, grace_steps=grace, **options)
    for k, value in enumerate(fitness):
        pool.add(One(f"c-{k}", value), step=k)
    return pool


def test_the_least_fit_go_first_then_the_older() -> None:
    pool = pool_of(0.5, -1.0, 0.5, 2.0, -1.0)
    assert pool.cull_worst(0.6, step=10) == ["c-1", "c-4", "c-0"]
    assert [event[1:] for event in pool.log[-3:]] == [
        ("c-1", 10, "culled"),
        ("c-4", 10, "culled"),
        ("c-0", 10, "culled"),
    ]


def test_a_fitness_that_is_no_number_goes_before_all() -> None:
    pool = pool_of(-3.0, float("nan"), 1.0, float("nan"), -5.0)
    assert pool.cull_worst(0.4, step=10) == ["c-1", "c-3"]


def test_newborns_survive() -> None:
    pool = pool_of(1.0, -5.0, grace=100)
    assert pool.cull_worst(1.0, step=100) == []
    assert pool.cull_worst(1.0, step=101) == ["c-0"]  # c-1 was born at step 1


def test_the_smallest_pool_stays() -> None:
    pool = pool_of(1.0, 2.0, 3.0, min_size=2)
    assert pool.cull_worst(1.0, step=99) == ["c-0"]
    assert pool.cull_worst(1.0, step=99) == []


def test_what_cannot_fade_says_so() -> None:
    pool: Pool[Any] = Pool(budget_bytes=100, min_size=0)
    plain = type("Plain", (), {**{n: v for n, v in vars(One).items() if "fade" not in n}})("p")
    pool.add(plain, step=0)
    with pytest.raises(LifecycleError, match="cannot fade"):
        pool.fade("p")


def test_unknown_and_known_names_are_told_apart() -> None:
    pool = pool_of(1.0)
    for asked in (pool.__getitem__, pool.context, lambda name: pool.remove(name, step=0, reason="x"), pool.fade):
        with pytest.raises(LifecycleError, match="no component 'who'"):
            asked("who")
    with pytest.raises(LifecycleError, match="already"):
        pool.add(One("c-0"), step=1)


@pytest.mark.parametrize(
    "limits", [{"min_size": 3, "max_size": 2}, {"max_size": 0, "min_size": 0}, {"grace_steps": -1}]
)
def test_limits_that_admit_no_pool_are_refused(limits: dict[str, int]) -> None:
    with pytest.raises(LifecycleError, match="a pool of"):
        Pool(budget_bytes=1, **limits)


def test_a_context_holds_all_with_one_in_focus() -> None:
    w = pool_of(1.0, 2.0, 3.0).context("c-1")
    assert w.extract().fitness == 2.0
    assert [one.fitness for one in w.neighbors()] == [1.0, 3.0]


def test_readers_see_whole_pools_while_one_writes() -> None:
    """Pairs are born and let go together in one replacement each; no reader may meet half of a cull."""
    pool = pool_of(*range(8), min_size=4)
    stop, torn = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            members = pool.members
            names = [m.component.component_id for m in members]
            if names != sorted(names) or not 4 <= len(names) <= 64:
                torn.append(names)
            if len(list(pool)) < 4 or sum(c.nbytes for c in pool) % 10:
                torn.append(names)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        for step in range(100, 600):
            pool.add(One(pool.next_id(), float(step)), step=step)
            pool.cull_worst(0.5, step=step + 1)
            while len(pool) < 8:
                pool.add(One(pool.next_id(), float(step)), step=step)
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert not torn


@pytest.mark.slow
def test_ten_thousand_lives_leave_their_names_alone() -> None:
    pool, seen = pool_of(1.0), []
    for step in range(10_000):
        one = One(pool.next_id())
        seen.append(weakref.ref(one))
        pool.add(one, step=step)
        pool.remove(one.component_id, step=step, reason="test")
    del one
    gc.collect()
    assert not any(reference() is not None for reference in seen)
    assert (len(pool), len(pool.log)) == (1, 20_001)


def test_two_writers_lose_no_birth() -> None:
    pool = pool_of(1.0, max_size=1001)

    def write() -> None:
        for _ in range(250):
            pool.add(One(pool.next_id()), step=1)

    writers = [threading.Thread(target=write) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert len(pool) == 1001
    assert len({event.component_id for event in pool.log}) == 1001
