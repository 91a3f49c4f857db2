"""Components together: the sum, births and deaths that move no bit, and what a state dict brings back."""

from __future__ import annotations

import copy
import gc
import threading
import weakref
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kernels.attention import workspace_bytes
from toolkit.errors import BudgetExceeded, DescriptorError
from toolkit.organism.behaviors import measure_behaviors, probe_batch
from toolkit.organism.errors import LifecycleError, ShapeError
from toolkit.organism.flow_state import FlowState
from toolkit.organism.freezing import freeze
from toolkit.organism.kernel import Kernels
from toolkit.organism.organism import Organism
from toolkit.organism.pool import Pool
from toolkit.organism.pseudopod import Pseudopod
from toolkit.organism.relief import with_relief
from toolkit.organism.species import Species
from toolkit.organism.torch_compat import SlimeMoldEncoder
from toolkit.organism.tubes import TubeNetwork


def organism_of(count: int = 4, d_model: int = 32, species: Species | None = None, **options: Any) -> Organism:
    return Organism.of_founders(d_model, species or Species(8), count, budget_bytes=10**8, **options)


def bits(x: Tensor) -> Tensor:
    return x.detach().view(torch.int32)


def test_founders_are_a_standard_multi_head_layer() -> None:
    organism = organism_of(norm=False)
    standard = nn.MultiheadAttention(32, 4, bias=False, batch_first=True)
    pods = list(organism.pool)
    with torch.no_grad():
        rows = [torch.cat([getattr(pod, name).weight for pod in pods]) for name in ("query", "key", "value")]
        standard.in_proj_weight.copy_(torch.cat(rows))
        standard.out_proj.weight.copy_(torch.cat([pod.out.weight for pod in pods], 1))
    x = torch.randn(3, 11, 32)
    assert (organism(x)[0] - (x + standard(x, x, x)[0])).abs().max() < 1e-5


def test_it_is_the_sum_of_what_each_says_alone() -> None:
    organism = organism_of(3)
    organism.pool.add(Pseudopod(32, 16, 2, component_id="other", rank=3, gate_init=0.5), step=0)
    organism.spawn(step=1)
    with torch.no_grad():
        organism.pool["pod-000004"].gate.fill_(0.2)
    x = torch.randn(2, 7, 32)
    h = organism.norm(x)
    alone = sum((pod(h, h) for pod in organism.pool), torch.zeros_like(x))
    assert (organism(x)[0] - (x + alone)).abs().max() < 1e-5
    without = copy.deepcopy(organism)
    gone = without.pool.remove("other", step=1, reason="test")
    assert ((organism(x)[0] - without(x)[0]) - gone(h, h)).abs().max() < 1e-5


def test_the_order_of_arrival_does_not_matter() -> None:
    pods = [Pseudopod(32, 8, component_id=f"p-{k}") for k in range(5)]
    x = torch.randn(2, 7, 32)
    found = []
    for order in (pods, pods[::-1]):
        pool: Pool[Pseudopod] = Pool(budget_bytes=10**7)
        for pod in order:
            pool.add(pod, step=0)
        found.append(Organism(32, pool)(x)[0])
    assert torch.equal(bits(found[0]), bits(found[1]))


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


def test_a_state_goes_on_from_its_answer() -> None:
    organism, x = organism_of(), torch.randn(2, 5, 32)
    out, state = organism(x)
    again, later = organism(x, state)
    h = organism.norm(x)
    wanted = out + organism.contribution(organism.norm(out), h)
    assert (again - wanted).abs().max() < 1e-6
    assert (state.step, later.step) == (1, 2)
    assert torch.equal(later.input, x)
    with pytest.raises(ShapeError, match="after one of"):
        organism(torch.randn(2, 6, 32), state)


def test_gradients_stop_where_they_are_told_to() -> None:
    for every, flows in ((None, True), (1, False), (2, True)):
        organism, x = organism_of(stop_gradient_every=every), torch.randn(1, 3, 32, requires_grad=True)
        _, state = organism(x)
        organism(torch.randn(1, 3, 32), state)[0].sum().backward()
        assert (x.grad is not None) == flows, every


def test_states_are_checked_and_cut() -> None:
    x = torch.randn(1, 2, 4, requires_grad=True)
    state = FlowState(x, x * 2, x * 3, 5)
    assert not state.detach().hidden.requires_grad
    assert state.to(torch.float64).residual.dtype == torch.float64
    assert state.replace(step=6).step == 6
    with pytest.raises(ShapeError, match="shapes"):
        FlowState(x, torch.randn(1, 2, 5))
    with pytest.raises(AttributeError):
        state.step = 3  # type: ignore[misc]


def test_memory_joins_the_stimulus() -> None:
    memory = TubeNetwork([0.5])
    organism, x = organism_of(memory=memory), torch.randn(2, 5, 32)
    plain = organism.eval()(x)[0]
    organism.train()(x)
    recalled = memory.recall()
    assert torch.allclose(recalled, plain.mean((0, 1)))
    wanted = x + organism.contribution(organism.norm(x), organism.norm(x + recalled))
    assert (organism.eval()(x)[0] - wanted).abs().max() < 1e-6
    assert torch.equal(freeze(organism)(x), organism(x)[0])
    organism.reset_state()
    assert torch.equal(organism(x)[0], plain)


def test_a_state_dict_brings_the_pool_back() -> None:
    organism = organism_of()
    organism.spawn(step=3)
    organism.pool.add(Pseudopod(32, 16, 2, component_id="other", rank=3, gate_init=0.5), step=4)
    organism.pool.fade("pod-000002", steps=4)
    organism.advance(step=4)
    organism.pool["pod-000001"].fitness = 1.25
    again = organism_of(1)
    again.load_state_dict(organism.state_dict())
    x = torch.randn(2, 5, 32)
    assert torch.equal(again(x)[0], organism(x)[0])
    assert again.pool.topology() == organism.pool.topology()
    assert again.pool["pod-000001"].fitness == 1.25
    assert [pod.stage for pod in again.pool] == [pod.stage for pod in organism.pool]
    assert again.spawn(step=5).component_id == organism.spawn(step=5).component_id


def test_a_state_of_another_width_is_refused() -> None:
    with pytest.raises(ShapeError, match="width 16, the organism 32"):
        organism_of(1).load_state_dict(organism_of(1, 16, Species(8)).state_dict(), strict=False)


def test_a_fade_goes_on_after_a_state_dict() -> None:
    organism = organism_of()
    organism.pool.fade("pod-000002", steps=4)
    organism.advance(step=1)
    again = organism_of(1)
    again.load_state_dict(organism.state_dict())
    for one in (organism, again):
        one.advance(step=2)
    assert float(again.pool["pod-000002"].gate) == float(organism.pool["pod-000002"].gate) == 0.5


def test_a_copy_lives_its_own_life() -> None:
    organism, told = organism_of(), []
    organism.pool.on_birth.append(told.append)
    other = copy.deepcopy(organism)
    other.spawn(step=1)
    assert (len(other.pool), len(other.members)) == (5, 5)
    assert (len(organism.pool), len(organism.members)) == (4, 4)
    assert told == []


def test_metrics_of_two_organisms_do_not_mix() -> None:
    class Counts:
        def __init__(self) -> None:
            self.seen: dict[str, float] = {}

        def counter(self, name: str, unit: str = "1") -> Any:
            return self._of(name, adds=True)

        def gauge(self, name: str, unit: str) -> Any:
            return self._of(name, adds=False)

        def _of(self, name: str, *, adds: bool) -> Any:
            def put(x: float = 1) -> None:
                self.seen[name] = x + (self.seen.get(name, 0) if adds else 0)

            return type("Metric", (), {"inc": staticmethod(put), "set": staticmethod(put)})

    first, second = Counts(), Counts()
    one, _ = organism_of(metrics=first), organism_of(metrics=second)
    one.spawn(step=1)
    one.pool.fade("pod-000001", steps=1)
    one.advance(step=1)
    assert first.seen == {"organism_births_total": 1, "organism_components": 4, "organism_deaths_total": 1}
    assert second.seen == {}


def test_statistics_are_numbers_of_the_host() -> None:
    organism = organism_of()
    for k, pod in enumerate(organism.pool):
        pod.fitness = float(k)
    organism.spawn(step=1)
    found = organism.stats()
    assert (found["components"], found["components_settled"], found["components_newborn"]) == (5, 4, 1)
    assert (found["fitness_min_nats"], found["fitness_max_nats"]) == (0.0, 3.0)
    assert not any(isinstance(value, Tensor) for value in found.values())


def test_shapes_and_widths_are_refused_by_name() -> None:
    pool: Pool[Pseudopod] = Pool(budget_bytes=10**7)
    pool.add(Pseudopod(16, 16, component_id="a"), step=0)
    with pytest.raises(ShapeError, match="width 16"):
        Organism(32, pool)
    with pytest.raises(LifecycleError, match="nobody"):
        Organism(32, Pool(budget_bytes=10**7))
    with pytest.raises(ShapeError, match="must be"):
        organism_of()(torch.randn(5, 32))
    with pytest.raises(ShapeError, match="a parent of width 16"):
        organism_of().spawn(step=1, parent=Pseudopod(16, 16, component_id="a").to_record())


def test_an_organism_of_nobody_passes_its_stimulus_on() -> None:
    organism, x = Organism(32, Pool(budget_bytes=10**7), species=Species(8)), torch.randn(1, 3, 32)
    assert torch.equal(organism(x)[0], x)
    organism.spawn(step=0)
    assert torch.equal(organism(x)[0], x)


# ---- gradients at the edges


def test_gradients_with_one_component() -> None:
    organism = organism_of(1)
    organism(torch.randn(2, 5, 32))[0].square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in organism.parameters())


def test_gradients_of_newborns_and_of_those_who_fade() -> None:
    organism = organism_of(3)
    born = organism.spawn(step=1)
    organism.pool.fade("pod-000001", steps=5)
    organism.advance(step=1)
    y, _ = organism(torch.randn(2, 5, 32))
    (y * torch.randn_like(y)).sum().backward()
    assert born.gate.grad is not None
    assert born.gate.grad.abs() > 0
    assert born.query.weight.grad is not None
    assert not born.query.weight.grad.any()
    fading = organism.pool["pod-000001"]
    assert fading.gate.grad is None
    assert fading.out.weight.grad is not None


def test_a_training_step_attends_once_whatever_the_stages() -> None:
    organism, x = organism_of(3), torch.randn(2, 5, 32)
    born = organism.spawn(step=1)
    with torch.no_grad():
        born.gate.fill_(0.3)
    organism.pool.fade("pod-000001", steps=5)
    organism.advance(step=1)
    called: list[tuple[int, ...]] = []

    class Counting(Kernels):
        def attention(self, q: Tensor, *args: Any, **given: Any) -> Any:
            called.append(tuple(q.shape))
            return super().attention(q, *args, **given)

    organism.kernel = Counting()
    found = {}
    for is_step in (True, False):
        organism.train(is_step).zero_grad()
        organism(x)[0].square().sum().backward()
        found[is_step] = {name: p.grad for name, p in organism.named_parameters() if p.grad is not None}
    assert called == [(2, 4, 5, 8), (2, 2, 5, 8), (2, 1, 5, 8), (2, 1, 5, 8)]
    for name, gradient in found[False].items():
        torch.testing.assert_close(found[True][name], gradient, rtol=1e-5, atol=1e-5, msg=name)


def test_masked_rows_have_finite_gradients() -> None:
    organism, x = organism_of(), torch.randn(2, 5, 32, requires_grad=True)
    padding = torch.tensor([[False] * 5, [True] * 5])
    for arguments in ({}, {"mask": torch.zeros(5, 5)}, {"causal": True}):
        organism.zero_grad()
        organism(x, key_padding=padding, **arguments)[0].square().sum().backward()
        assert all(p.grad.isfinite().all() for p in organism.parameters() if p.grad is not None)
        assert x.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_numbers_learn_too(dtype: torch.dtype) -> None:
    organism = organism_of().to(dtype)
    born = organism.spawn(step=1)
    x = torch.randn(2, 5, 32, dtype=dtype)
    before = organism(x)[0]
    before.float().square().mean().backward()
    assert before.dtype == born.gate.dtype == dtype
    assert all(p.grad.isfinite().all() for p in organism.parameters() if p.grad is not None)
    wide = copy.deepcopy(organism).float()
    assert (wide(x.float())[0] - before.float()).abs().max() < {torch.float64: 1e-5}.get(dtype, 0.06)


def test_gradients_agree_with_differences() -> None:
    organism = organism_of(2, 16, Species(16)).double()
    organism.spawn(step=1)
    x = torch.randn(1, 3, 16, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: organism(x)[0], (x,))


@pytest.mark.slow
def test_training_under_the_compiler_with_a_birth_in_between() -> None:
    organism = organism_of()
    plain = copy.deepcopy(organism)
    compiled = torch.compile(organism, backend="aot_eager")
    x = torch.randn(2, 5, 32)
    for one in (organism, plain):
        assert len(one.pool) == 4
    for run in (compiled, plain):
        run(x)[0].square().sum().backward()
    assert torch.allclose(organism.norm.weight.grad, plain.norm.weight.grad, atol=1e-4)
    born = organism.spawn(step=1)
    with torch.no_grad():
        born.gate.fill_(0.5)
    h = organism.norm(x)
    assert (compiled(x)[0] - plain(x)[0] - born(h, h)).abs().max() < 1e-5


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


def test_equal_calls_give_equal_bits() -> None:
    encoder, x = SlimeMoldEncoder(32, 4, 2, 64, batch_first=True).eval(), torch.randn(2, 65, 32)
    assert torch.equal(bits(encoder(x)), bits(encoder(x)))


def test_no_gradient_is_copied_into_zeros() -> None:
    """An index that takes a whole tensor has a gradient as large again: three for each layer, where nothing is cut."""
    organism, x = organism_of(4, 32, Species(16)), torch.randn(2, 5, 32, requires_grad=True)
    out = organism(x)[0].sum()
    with torch.profiler.profile() as seen:
        out.backward()
    called = {event.key for event in seen.key_averages()}
    assert "aten::mm" in called
    assert "aten::slice_backward" not in called


def test_no_number_is_read_back_in_a_forward_pass() -> None:
    """On a GPU every such look would wait: the profiler counts them here."""
    organism = organism_of()
    organism.spawn(step=1)
    organism.pool.fade("pod-000001", steps=3)
    organism.advance(step=1)
    with torch.profiler.profile() as seen:
        organism(torch.randn(2, 5, 32))[0].sum().backward()
    assert not {event.key for event in seen.key_averages()} & {"aten::item", "aten::_local_scalar_dense"}


def test_behaviours_come_with_one_copy_from_the_device() -> None:
    organism, probe = organism_of(), probe_batch(32, length=8)
    with torch.profiler.profile() as seen:
        measure_behaviors(organism, probe)
    assert not {event.key for event in seen.key_averages()} & {"aten::item", "aten::_local_scalar_dense"}
