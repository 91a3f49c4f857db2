"""What the left half of a chain gives, against dense inverses of the chain cut behind each site."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from toolkit.models.resnet_bk import plain, spelled_out
from toolkit.models.resnet_bk.one_sided import one_sided

FORMS = {"chunks": one_sided, "spelled out": spelled_out.one_sided}

over_forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def chain(rows: int, n: int, *, seed: int = 0, largest: float = 3.0) -> tuple[Tensor, Tensor]:
    made = torch.Generator().manual_seed(seed)
    u = torch.randn(rows, n, dtype=torch.float64, generator=made) * largest
    return u, torch.rand(rows, n, dtype=torch.float64, generator=made) * 4


def dense(u: Tensor, w: Tensor, end: int) -> np.ndarray:
    """(H − i)⁻¹ of the first `end` sites of one row."""
    links = np.sqrt(w[1:end].numpy())
    return np.linalg.inv(np.diag(u[:end].numpy() - 1j) + np.diag(links, 1) + np.diag(links, -1))


@over_forms
@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 33, 100])
def test_each_site_is_the_last_of_a_chain_that_ends_there(form, n):
    u, w = chain(2, n)
    found = torch.view_as_complex(form(u, w))
    for row in range(2):
        truth = [dense(u[row], w[row], end)[-1, -1] for end in range(1, n + 1)]
        np.testing.assert_allclose(found[row].numpy(), truth, rtol=1e-11, atol=1e-13)


@over_forms
def test_float32_is_as_good_as_the_chain_is_conditioned(form):
    u, w = chain(4, 3000, seed=1)
    error = (form(u.float(), w.float()).double() - one_sided(u, w)).abs().max()
    assert error <= 4 * torch.finfo(torch.float32).eps * (1 + float(u.abs().max() + 2 * w.max().sqrt()))


@over_forms
def test_long_and_strong_chains_stay_within_one(form):
    u, w = chain(2, 5000, seed=2, largest=1000.0)
    found = form(u.float(), 1e6 * w.float())
    assert found.isfinite().all()
    assert found.square().sum(-1).max() <= 1 + 1e-5


@over_forms
def test_what_is_before_a_site_does_not_know_of_it(form):
    u, w = chain(1, 200)
    before = form(u, w)
    u[0, 120], w[0, 120] = 50.0, 30.0
    after = form(u, w)
    torch.testing.assert_close(after[:, :120], before[:, :120], rtol=1e-12, atol=1e-12)
    assert (after[:, 120] - before[:, 120]).abs().max() > 1e-3


@pytest.mark.parametrize("n", [1, 2, 16, 37])
def test_its_gradient_is_that_of_differences(n):
    u, w = (t.requires_grad_() for t in chain(2, n))
    assert torch.autograd.gradcheck(one_sided, (u, w))


def test_the_gradient_of_long_chains_is_that_of_the_spelled_out_form():
    u, w = chain(3, 700)
    seed = torch.randn(3, 700, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    grads = []
    for form in FORMS.values():
        given = [t.clone().requires_grad_() for t in (u, w)]
        grads.append(torch.autograd.grad((form(*given) * seed).sum(), given))
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@over_forms
@pytest.mark.parametrize("n", [1, 2, 17, 60])
def test_both_sides_meet_in_the_diagonal_of_the_whole_chain(form, n):
    u, w = chain(2, n)
    found = torch.view_as_complex(plain.two_sided(u, w, form).contiguous())
    for row in range(2):
        np.testing.assert_allclose(found[row].numpy(), dense(u[row], w[row], n).diagonal(), rtol=1e-11, atol=1e-13)


@pytest.mark.slow
def test_tritons_form_is_that_of_torch_and_so_is_its_gradient():
    """In the interpreter, in a process of its own; memory that nobody wrote holds NaN."""
    code = """
import torch
from toolkit.models.resnet_bk import fused
from toolkit.models.resnet_bk.by_heads import one_sided_by_heads, with_triton
fused._MOST_CHUNKS = 4
torch.use_deterministic_algorithms(True)
made = torch.Generator().manual_seed(0)
for batch, n, heads, constant in ((2, 33, 3, False), (1, 1, 1, False), (1, 300, 5, True)):
    u = torch.randn(batch, n, heads, dtype=torch.float64, generator=made).mul(3).requires_grad_()
    w = torch.rand(*([heads] if constant else u.shape), dtype=torch.float64, generator=made).mul(4).requires_grad_()
    seed = torch.randn(*u.shape, 2, dtype=torch.float64, generator=made)
    found = [form(u, w.expand(u.shape)) for form in (with_triton, one_sided_by_heads)]
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)
    grads = [torch.autograd.grad((rho * seed).sum(), (u, w)) for rho in found]
    for ours, theirs in zip(*grads):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
"""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(Path(__file__).parents[3])}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
