"""A component alone: its attention, its gate, its life and what is measured of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from toolkit.errors import DescriptorError
from toolkit.organism.attending import Sight
from toolkit.organism.behaviors import AXES, GradientShares, compute_intensity, measure_behaviors, probe_batch
from toolkit.organism.errors import LifecycleError, ShapeError
from toolkit.organism.freezing import freeze
from toolkit.organism.organism import Organism
from toolkit.organism.pool import Pool
from toolkit.organism.pseudopod import Pseudopod, Stage
from toolkit.organism.species import Species


def dense(pod: Pseudopod, latent: Tensor, stimulus: Tensor, hidden: Tensor | None = None) -> Tensor:
    """The definition, head by head in float64, with the whole matrix of probabilities."""
    w = [p.matrix().detach().double() for p in (pod.query, pod.key, pod.value, pod.out)]
    latent, stimulus = latent.double(), stimulus.double()
    heads = []
    for k in range(pod.n_heads):
        rows = slice(k * pod.head_dim, (k + 1) * pod.head_dim)
        q, key, v = latent @ w[0][rows].T, stimulus @ w[1][rows].T, stimulus @ w[2][rows].T
        scores = q @ key.mT / math.sqrt(pod.head_dim)
        if hidden is not None:
            scores = scores.masked_fill(hidden, -torch.inf)
        p = (
            torch.where(hidden.all(-1, keepdim=True), 0.0, scores.softmax(-1))
            if hidden is not None
            else scores.softmax(-1)
        )
        heads.append(p @ v)
    return pod.gate.detach().double() * torch.cat(heads, -1) @ w[3].T


@pytest.mark.parametrize("options", [{}, {"n_heads": 3}, {"rank": 4}, {"head_dim": 20}])
def test_it_attends_as_defined(options: dict[str, Any]) -> None:
    pod = Pseudopod(24, **{"head_dim": 8, **options}, component_id="a", gate_init=0.7)
    latent, stimulus = torch.randn(2, 5, 24), torch.randn(2, 9, 24)
    assert (pod(latent, stimulus).double() - dense(pod, latent, stimulus)).abs().max() < 1e-5


def test_masks_hide_what_they_say() -> None:
    pod = Pseudopod(24, 16, component_id="a")
    x, padding = torch.randn(2, 6, 24), torch.zeros(2, 6, dtype=torch.bool)
    padding[1, 4:] = True
    future = torch.ones(6, 6, dtype=torch.bool).triu(1)
    for hidden, arguments in (
        (future, {"causal": True}),
        (padding[:, None, :].expand(2, 6, 6), {"key_padding": padding}),
        (future | padding[:, None, :], {"causal": True, "key_padding": padding}),
        (future | padding[:, None, :], {"mask": future, "key_padding": padding}),
        (future, {"mask": torch.zeros(6, 6).masked_fill(future, -torch.inf)}),
    ):
        assert (pod(x, x, **arguments).double() - dense(pod, x, x, hidden)).abs().max() < 1e-5


@pytest.mark.parametrize(("queries", "keys"), [(3, 7), (7, 3)])
def test_the_last_query_stands_at_the_last_key(queries: int, keys: int) -> None:
    pod = Pseudopod(24, 16, component_id="a")
    latent, stimulus = torch.randn(2, queries, 24), torch.randn(2, keys, 24)
    hidden = torch.ones(queries, keys, dtype=torch.bool).triu(1 + keys - queries)
    wanted = dense(pod, latent, stimulus, hidden)
    for arguments in ({}, {"mask": torch.zeros(queries, keys)}):
        assert (pod(latent, stimulus, causal=True, **arguments).double() - wanted).abs().max() < 1e-5
    pool: Pool[Pseudopod] = Pool(budget_bytes=10**7)
    pool.add(pod, step=0)
    (heads,) = freeze(Organism(24, pool)).groups
    sight = Sight(causal=True)
    written = heads.out(heads._written(latent, stimulus, sight))[:, max(0, queries - keys) :]
    assert (written.double() - wanted[:, max(0, queries - keys) :]).abs().max() < 1e-5


def test_rows_that_see_nothing_answer_nothing() -> None:
    pod = Pseudopod(24, 16, component_id="a")
    x, all_hidden = torch.randn(2, 4, 24), torch.tensor([[False] * 4, [True] * 4])
    for arguments in ({"key_padding": all_hidden}, {"key_padding": all_hidden, "mask": torch.zeros(4, 4)}):
        y = pod(x, x, **arguments)
        assert torch.equal(y[1], torch.zeros(4, 24))
        assert y[0].abs().max() > 0


def test_a_newborn_says_nothing_and_its_gate_learns() -> None:
    pod = Pseudopod(24, 16, component_id="a", gate_init=0.0)
    x = torch.randn(2, 5, 24)
    y = pod(x, x)
    assert pod.stage is Stage.NEWBORN
    assert not y.any()
    (y * torch.randn_like(y)).sum().backward()
    for name, parameter in pod.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.any()) == (name == "gate"), name


def test_every_parameter_of_a_founder_learns() -> None:
    pod = Pseudopod(24, 16, component_id="a", rank=3, bias=True)
    x = torch.randn(2, 5, 24)
    (pod(x, x) * torch.randn(2, 5, 24)).sum().backward()
    still = [name for name, p in pod.named_parameters() if p.grad is None or not p.grad.any()]
    assert set(still) <= {"key.bias"}  # a softmax does not see a shift that all keys share


def test_a_fade_is_a_line_to_zero() -> None:
    pod = Pseudopod(16, 16, component_id="a", gate_init=0.8)
    pod.begin_fade(4)
    gates = []
    for _ in range(4):
        done = pod.advance_fade()
        gates.append(float(pod.gate))
    assert gates == pytest.approx([0.6, 0.4, 0.2, 0.0])
    assert gates[-1] == 0.0
    assert done
    assert not pod.gate.requires_grad


def test_a_fade_goes_on_after_it_was_recorded() -> None:
    pod = Pseudopod(16, 16, component_id="a", gate_init=0.8)
    pod.begin_fade(4)
    pod.advance_fade()
    again = Pseudopod.from_record(pod.to_record())
    assert again.stage is Stage.FADING
    again.advance_fade()
    assert float(again.gate) == pytest.approx(0.4)


def test_what_cannot_be_says_so() -> None:
    pod = Pseudopod(16, 16, component_id="a")
    with pytest.raises(LifecycleError, match="not fading"):
        pod.advance_fade()
    with pytest.raises(LifecycleError, match="0 steps"):
        pod.begin_fade(0)
    pod.begin_fade(2)
    with pytest.raises(LifecycleError, match="is fading"):
        pod.settle()
    with pytest.raises(ShapeError, match="heads of 0"):
        Pseudopod(16, 0, component_id="a")
    with pytest.raises(ShapeError, match="must be"):
        pod(torch.randn(2, 3, 8), torch.randn(2, 3, 16))
    with pytest.raises(ShapeError, match="batch"):
        pod(torch.randn(2, 3, 16), torch.randn(3, 3, 16))
    with pytest.raises(DescriptorError, match="never measured"):
        pod.behavior()


def test_bytes_are_those_of_parameters_and_of_the_optimizer() -> None:
    pod = Pseudopod(24, 16, 2, component_id="a", rank=3, bias=True)
    pod.optimizer_bytes = 100
    assert pod.nbytes == 4 * sum(p.numel() for p in pod.parameters()) + 100
    assert Species.of(pod).nbytes(24, torch.float32) == pod.nbytes - 100


def constructed(weight: Tensor, value: Tensor | None = None) -> Organism:
    """One component whose scores are x W xᵀ, in an organism without a norm."""
    width = len(weight)
    pod = Pseudopod(width, width, component_id="a")
    with torch.no_grad():
        pod.query.weight.copy_(weight)
        pod.key.weight.copy_(torch.eye(width))
        if value is not None:
            pod.value.weight.copy_(value)
    pool: Pool[Pseudopod] = Pool(budget_bytes=10**7)
    pool.add(pod, step=0)
    return Organism(width, pool, norm=False)


def test_behaviour_of_attention_to_oneself() -> None:
    organism = constructed(1e4 * torch.eye(32))
    measured = measure_behaviors(organism, torch.eye(32)[None])["a"]
    named = dict(zip((axis.name for axis in AXES), measured, strict=True))
    assert named["attention_span"] == pytest.approx(0.0, abs=1e-6)
    assert named["access_locality"] == pytest.approx(1.0, abs=1e-6)


def test_behaviour_of_attention_to_all_alike() -> None:
    m = 32
    organism = constructed(torch.zeros(m, m))
    measured = measure_behaviors(organism, torch.eye(m)[None])["a"]
    named = dict(zip((axis.name for axis in AXES), measured, strict=True))
    assert named["attention_span"] == pytest.approx((m * m - 1) / (3 * m * (m - 1)), rel=1e-5)
    assert named["access_locality"] == pytest.approx(1 - math.sqrt(m * m - 1) / m, abs=1e-5)


def test_sparsity_has_no_scale_and_looks_at_both_signs() -> None:
    organism = constructed(torch.zeros(16, 16))
    probe = probe_batch(16, length=12)
    first = measure_behaviors(organism, probe)["a"][1]
    written = organism.contribution(probe, probe)
    assert first == pytest.approx(
        float((written.abs() < 0.1 * written.square().mean().sqrt()).float().mean()), abs=1e-6
    )
    with torch.no_grad():
        next(iter(organism.pool)).out.weight.mul_(-1000)
    assert measure_behaviors(organism, probe)["a"][1] == pytest.approx(first, abs=1e-6)


def test_measuring_is_repeatable_and_touches_nothing() -> None:
    organism = Organism.of_founders(32, Species(16), 3, budget_bytes=10**7)
    probe = probe_batch(32, length=10, seed=3)
    before = {name: value.clone() for name, value in organism.named_parameters()}
    first, second = measure_behaviors(organism, probe), measure_behaviors(organism, probe)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert all(torch.equal(value, before[name]) for name, value in organism.named_parameters())
    assert all(np.array_equal(pod.behavior(), first[pod.component_id]) for pod in organism.pool)


def test_a_diverged_component_is_named() -> None:
    organism = Organism.of_founders(16, Species(16), 2, budget_bytes=10**7)
    with torch.no_grad():
        organism.pool["pod-000002"].value.weight.fill_(torch.nan)
    with pytest.raises(DescriptorError, match="pod-000002"):
        measure_behaviors(organism, probe_batch(16, length=4))


def test_correlation_coherence_and_rank() -> None:
    organism = Organism.of_founders(32, Species(16), 1, budget_bytes=10**7)
    pod = next(iter(organism.pool))
    assert pod.correlation.isnan().all()
    probe = probe_batch(32, length=50)
    measure_behaviors(organism, probe)
    r = np.corrcoef(pod._outputs.numpy().T)
    assert np.abs(pod.correlation.numpy() - r).max() < 1e-4
    off = np.abs(r) - np.diag(np.diag(np.abs(r)))
    assert float(pod.coherence()) == pytest.approx(off.sum() / (16 * 15), abs=1e-4)
    s = torch.linalg.svdvals(pod.out.weight.detach().double() @ pod.value.weight.detach().double()) ** 2
    assert float(pod.effective_rank()) == pytest.approx(float(s.sum() ** 2 / s.square().sum()), rel=1e-4)


def test_gradient_shares_add_to_one_and_constants_are_exact() -> None:
    organism = Organism.of_founders(16, Species(16), 3, budget_bytes=10**7)
    shares = GradientShares(0.9)
    x = torch.randn(2, 6, 16)
    organism(x)[0].square().sum().backward()
    shares.update(organism)
    first = shares.values
    norms = {
        pod.component_id: sum(float(p.grad.double().square().sum()) for p in pod.parameters()) for pod in organism.pool
    }
    assert first == pytest.approx({name: value / sum(norms.values()) for name, value in norms.items()}, rel=1e-5)
    for _ in range(3):
        shares.update(organism)
    assert shares.values == pytest.approx(first, rel=1e-12)


def test_intensity_grows_with_the_length() -> None:
    pod = Pseudopod(64, 16, component_id="a")
    assert compute_intensity(pod, length=64) > compute_intensity(pod, length=8)
