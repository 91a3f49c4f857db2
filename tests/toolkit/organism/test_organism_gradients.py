"""Gradients of an organism at the edges, and passes that copy nothing and read no number back in between."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.toolkit.organism.organisms import organism_of
from toolkit.organism.behaviors import measure_behaviors, probe_batch
from toolkit.organism.kernel import Kernels
from toolkit.organism.species import Species

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


def test_gradients_stop_where_they_are_told_to() -> None:
    for every, flows in ((None, True), (1, False), (2, True)):
        organism, x = organism_of(stop_gradient_every=every), torch.randn(1, 3, 32, requires_grad=True)
        _, state = organism(x)
        organism(torch.randn(1, 3, 32), state)[0].sum().backward()
        assert (x.grad is not None) == flows, every


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


# ---- what a step does not do


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
