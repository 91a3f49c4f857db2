"""Chains spelled out in real arithmetic, against dense inverses of the chain cut behind each site, and our kernels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from kernels.bk_core.one_sided import bk_one_sided
from toolkit.models.resnet_bk import operators
from toolkit.models.resnet_bk.spelled_out import one_sided, two_sided


def chain(rows: int, n: int, *, seed: int = 0, largest: float = 3.0) -> tuple[Tensor, Tensor]:
    made = torch.Generator().manual_seed(seed)
    u = torch.randn(rows, n, dtype=torch.float64, generator=made) * largest
    return u, torch.rand(rows, n, dtype=torch.float64, generator=made) * 4


def dense(u: Tensor, w: Tensor, end: int) -> np.ndarray:
    """(H − i)⁻¹ of the first `end` sites of one row."""
    links = np.sqrt(w[1:end].numpy())
    return np.linalg.inv(np.diag(u[:end].numpy() - 1j) + np.diag(links, 1) + np.diag(links, -1))


def by_kernels(u: Tensor, w: Tensor) -> Tensor:
    return bk_one_sided(u[..., None], w[..., None])[:, :, 0]


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 33, 100])
def test_each_site_is_the_last_of_a_chain_that_ends_there(n):
    u, w = chain(2, n)
    found = torch.view_as_complex(one_sided(u, w))
    for row in range(2):
        truth = [dense(u[row], w[row], end)[-1, -1] for end in range(1, n + 1)]
        np.testing.assert_allclose(found[row].numpy(), truth, rtol=1e-11, atol=1e-13)


def test_float32_is_as_good_as_the_chain_is_conditioned():
    u, w = chain(4, 3000, seed=1)
    error = (one_sided(u.float(), w.float()).double() - by_kernels(u, w)).abs().max()
    assert error <= 4 * torch.finfo(torch.float32).eps * (1 + float(u.abs().max() + 2 * w.max().sqrt()))


def test_long_and_strong_chains_stay_within_one():
    u, w = chain(2, 5000, seed=2, largest=1000.0)
    found = one_sided(u.float(), 1e6 * w.float())
    assert found.isfinite().all()
    assert found.square().sum(-1).max() <= 1 + 1e-5


def test_what_is_before_a_site_does_not_know_of_it():
    u, w = chain(1, 200)
    before = one_sided(u, w)
    u[0, 120], w[0, 120] = 50.0, 30.0
    after = one_sided(u, w)
    torch.testing.assert_close(after[:, :120], before[:, :120], rtol=1e-12, atol=1e-12)
    assert (after[:, 120] - before[:, 120]).abs().max() > 1e-3


def test_its_gradient_is_that_of_our_kernels():
    u, w = chain(3, 700)
    seed = torch.randn(3, 700, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    grads = []
    for form in (one_sided, by_kernels):
        given = [t.clone().requires_grad_() for t in (u, w)]
        grads.append(torch.autograd.grad((form(*given) * seed).sum(), given))
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("n", [1, 2, 17, 60])
def test_both_sides_meet_in_the_diagonal_of_the_whole_chain(n):
    u, w = chain(2, n)
    found = torch.view_as_complex(two_sided(u, w).contiguous())
    for row in range(2):
        np.testing.assert_allclose(found[row].numpy(), dense(u[row], w[row], n).diagonal(), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("causal", [True, False])
def test_heads_are_chains_of_their_own_with_kernels_and_without(causal, monkeypatch):
    u, w = (t.view(2, 3, 40).transpose(1, 2) for t in chain(6, 40))
    with_kernels = operators.diagonal(u, w, causal=causal)
    monkeypatch.setattr(operators, "USES_KERNELS", False)
    without = operators.diagonal(u, w, causal=causal)
    assert with_kernels.shape == without.shape == (2, 40, 3, 2)
    torch.testing.assert_close(with_kernels, without, rtol=1e-10, atol=1e-12)
