"""Components together: the sum, a state and a memory that go on, and what a state dict brings back."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.toolkit.organism.organisms import bits, organism_of
from toolkit.organism.errors import LifecycleError, ShapeError
from toolkit.organism.flow_state import FlowState
from toolkit.organism.freezing import freeze
from toolkit.organism.organism import Organism
from toolkit.organism.pool import Pool
from toolkit.organism.pseudopod import Pseudopod
from toolkit.organism.species import Species
from toolkit.organism.torch_compat import SlimeMoldEncoder
from toolkit.organism.tubes import TubeNetwork

# ---- the sum


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


def test_an_organism_of_nobody_passes_its_stimulus_on() -> None:
    organism, x = Organism(32, Pool(budget_bytes=10**7), species=Species(8)), torch.randn(1, 3, 32)
    assert torch.equal(organism(x)[0], x)
    organism.spawn(step=0)
    assert torch.equal(organism(x)[0], x)


def test_equal_calls_give_equal_bits() -> None:
    encoder, x = SlimeMoldEncoder(32, 4, 2, 64, batch_first=True).eval(), torch.randn(2, 65, 32)
    assert torch.equal(bits(encoder(x)), bits(encoder(x)))


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


# ---- what goes on


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


# ---- state dicts and copies


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


# ---- numbers about it


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
