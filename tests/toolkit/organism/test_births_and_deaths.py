"""Births and deaths in an organism: they move no bit, keep to the budget and leave nothing behind."""

from __future__ import annotations

import gc
import threading
import weakref
from functools import partial

import pytest
import torch

from kernels.attention import workspace_bytes
from tests.toolkit.organism.organisms import bits, organism_of
from toolkit.errors import BudgetExceeded, DescriptorError
from toolkit.organism.kernel import Kernels
from toolkit.organism.organism import Organism
from toolkit.organism.pseudopod import Pseudopod
from toolkit.organism.relief import with_relief
from toolkit.organism.species import Species

# ---- what the answer does


@pytest.mark.parametrize("count", [1, 4, 13])
@pytest.mark.parametrize("shape", [(1, 1), (2, 7), (3, 65)])
def test_a_birth_moves_no_bit(count: int, shape: tuple[int, int]) -> None:
    organism, x = organism_of(count).eval(), torch.randn(*shape, 32)
    before = bits(organism(x)[0])
    parent = organism.pool["pod-000001"].to_record()
    for step in range(1, 4):
        organism.spawn(step=step, parent=parent if step == 2 else None, sigma=0.1)
        assert torch.equal(bits(organism(x)[0]), before)
    assert len(organism.pool) == count + 3


@pytest.mark.parametrize("count", [2, 5, 14])
def test_who_has_faded_is_taken_out_without_a_bit_moved(count: int) -> None:
    organism, x = organism_of(count).eval(), torch.randn(2, 33, 32)
    organism.pool.fade("pod-000001", steps=3)
    whole, answers = organism(x)[0], []
    for step in range(1, 3):
        assert organism.advance(step=step) == []
        answers.append(organism(x)[0])
    kept = organism.pool["pod-000001"]
    with torch.no_grad():
        kept.gate.zero_()
    silent = bits(organism(x)[0])
    assert organism.advance(step=3) == ["pod-000001"]
    assert torch.equal(bits(organism(x)[0]), silent)
    h = organism.norm(x)
    with torch.no_grad():
        kept.gate.fill_(1.0)
    for k, answer in enumerate(answers, 1):  # the answer goes there in a line
        assert (whole - answer - k / 3 * kept(h, h)).abs().max() < 1e-5


def test_a_newborn_settles_by_rounding_alone() -> None:
    organism, x = organism_of().eval(), torch.randn(2, 7, 32)
    pod = organism.spawn(step=10)
    with torch.no_grad():
        pod.gate.fill_(0.4)
    before = organism(x)[0]
    assert organism.settle(step=20, after=10) == []
    assert organism.settle(step=21, after=10) == [pod.component_id]
    assert (organism(x)[0] - before).abs().max() < 1e-6


def test_readers_see_no_half_of_a_birth() -> None:
    """Births and deaths at gate 0 move no bit, so whoever computes meanwhile has to get the very same answer."""
    organism, x = organism_of(), torch.randn(1, 9, 32)
    wanted, stop, odd = bits(organism(x)[0]), threading.Event(), []

    def read() -> None:
        with torch.no_grad():
            while not stop.is_set():
                try:
                    if not torch.equal(bits(organism(x)[0]), wanted) or len(list(organism.parameters())) < 4 * 5:
                        odd.append("another answer")
                except Exception as error:  # of whatever kind: it is what this test looks for
                    odd.append(repr(error))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for step in range(150):
            organism.pool.fade(organism.spawn(step=step).component_id, steps=1)
            organism.advance(step=step)
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert odd == []


# ---- children


def test_a_child_begins_where_its_parent_stood() -> None:
    organism = organism_of()
    parent = organism.pool["pod-000002"]
    child = organism.spawn(step=1, parent=parent.to_record())
    noisy = organism.spawn(step=1, parent=parent.to_record(), sigma=0.1)
    x = torch.randn(2, 5, 32)
    with torch.no_grad():
        child.gate.fill_(1.0)
        gap = (noisy.query.weight - parent.query.weight).square().mean().sqrt()
        scale = parent.query.weight.square().mean().sqrt()
    assert torch.equal(child(x, x), parent(x, x))
    assert float(gap / scale) == pytest.approx(0.1, rel=0.15)
    assert len({child.component_id, noisy.component_id, parent.component_id}) == 3


def test_noise_on_weights_of_half_precision_is_finite() -> None:
    organism = organism_of(1, 64, Species(64)).half()
    parent = organism.pool["pod-000001"]
    with torch.no_grad():
        parent.query.weight.fill_(5.0)  # the sum of squares is above what float16 holds
    child = organism.spawn(step=1, parent=parent.to_record(), sigma=0.1)
    assert float((child.query.weight.detach() - 5).float().square().mean().sqrt()) == pytest.approx(0.5, rel=0.1)
    for sigma in (-0.1, float("nan"), float("inf")):
        with pytest.raises(DescriptorError, match="noise"):
            organism.spawn(step=1, parent=parent.to_record(), sigma=sigma)


def test_births_repeat_with_the_seed_and_differ_by_it() -> None:
    first, second, other = (organism_of(seed=seed).spawn(step=1) for seed in (3, 3, 4))
    assert torch.equal(first.query.weight, second.query.weight)
    assert not torch.equal(first.query.weight, other.query.weight)


# ---- memory


def test_the_budget_is_asked_before_a_birth() -> None:
    size = Species(8).nbytes(32, torch.float32)
    organism = Organism.of_founders(32, Species(8), 2, budget_bytes=3 * size)
    organism.spawn(step=1)
    assert not organism.can_spawn()
    with pytest.raises(BudgetExceeded, match="no room"):
        organism.spawn(step=2)
    assert len(organism.pool) == len(organism.members) == 3
    organism.pool.budget_bytes += size
    assert organism.can_spawn()
    with pytest.raises(BudgetExceeded, match="no room for a newborn"):
        organism.spawn(step=2, parent=Pseudopod(32, 16, 2, component_id="large").to_record())
    organism.pool.budget_bytes -= size
    assert organism.stats()["parameter_bytes"] == organism.stats()["budget_bytes"]


def test_memory_that_runs_out_is_relieved_once() -> None:
    organism = organism_of(10, grace_steps=0)
    tries = []

    def step() -> int:
        tries.append(len(organism.pool))
        if len(organism.pool) > 8:
            raise torch.OutOfMemoryError("too much")
        return len(organism.pool)

    assert with_relief(step, partial(organism.pool.cull_worst, step=100)) == 8
    assert tries == [10, 8]
    organism.pool.grace_steps = 10**6

    def always() -> None:
        raise MemoryError("never enough")

    with pytest.raises(BudgetExceeded, match="never enough"):
        with_relief(always, partial(organism.pool.cull_worst, step=100))


def test_a_kernel_that_asks_first_is_relieved_too() -> None:
    organism, x = organism_of(10, grace_steps=0), torch.randn(2, 5, 32)
    q = torch.empty(2, 8, 5, 16)  # narrow heads are filled up
    organism.kernel = Kernels(free_bytes=lambda: workspace_bytes(q, q, q))
    with pytest.raises(BudgetExceeded, match="attention needs"):
        organism(x)
    assert with_relief(lambda: organism(x)[0], partial(organism.pool.cull_worst, step=100)).shape == x.shape
    assert len(organism.pool) == 8


def test_lives_leave_nothing_behind() -> None:
    organism = organism_of(2, 16, Species(16))
    seen = []
    for step in range(40):
        seen.append(weakref.ref(organism.spawn(step=step)))
        organism.pool.fade(organism.pool.ids[-1], steps=1)
        organism.advance(step=step)
    gc.collect()
    assert not any(one() is not None for one in seen)
    assert len(organism.members) == len(organism.pool) == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="it counts what torch allocates on a GPU")
def test_lives_leave_nothing_on_a_gpu() -> None:
    organism, held = organism_of(2, 16, Species(16)).cuda(), []
    for step in range(1000):
        organism.spawn(step=step)
        organism.pool.fade(organism.pool.ids[-1], steps=1)
        organism.advance(step=step)
        held.append(torch.cuda.memory_allocated())
    assert max(held[10:]) == max(held[:10])
