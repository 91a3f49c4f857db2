"""What the left half of a chain gives, against dense inverses of the chain cut behind each site, in every form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kernels import memory, registry
from kernels.bk_core.one_sided import bk_one_sided, chunked, fused, operators, reference
from kernels.dispatch import Call
from kernels.machine import Machine

GPU = torch.cuda.is_available()
FORMS = ["torch", "reference", *([] if not GPU else ["triton"])]
LENGTHS = [1, 2, 15, 16, 17, 33, 100]


def chain(batch: int, n: int, heads: int, *, largest: float = 3.0) -> tuple[Tensor, Tensor]:
    made = torch.Generator().manual_seed(batch * n * heads)
    u = torch.randn(batch, n, heads, dtype=torch.float64, generator=made) * largest
    return u, torch.rand(batch, n, heads, dtype=torch.float64, generator=made) * 4


def dense(u: Tensor, w: Tensor) -> np.ndarray:
    """The last element of (H − i)⁻¹ of the first 1, 2, … sites of one chain."""
    links = np.sqrt(w[1:].numpy())
    whole = np.diag(u.numpy() - 1j) + np.diag(links, 1) + np.diag(links, -1)
    return np.array([np.linalg.inv(whole[:end, :end])[-1, -1] for end in range(1, len(u) + 1)])


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("KERNELS_FORM", request.param)
    return str(request.param)


@pytest.mark.parametrize("n", LENGTHS)
def test_each_site_is_the_last_of_a_chain_that_ends_there(form: str, n: int, device: torch.device) -> None:
    u, w = chain(2, n, 3)
    found = torch.view_as_complex(bk_one_sided(u.to(device), w.to(device)).cpu().contiguous())
    for row in range(2):
        for head in range(3):
            truth = dense(u[row, :, head], w[row, :, head])
            np.testing.assert_allclose(found[row, :, head].numpy(), truth, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("largest", [0.0, 3.0, 1000.0])
def test_float32_is_as_good_as_the_chain_is_conditioned(form: str, largest: float, device: torch.device) -> None:
    u, w = (t.float() for t in chain(1, 300 if form == "reference" else 3000, 4, largest=largest))
    found, truth = bk_one_sided(u.to(device), w.to(device)).cpu(), reference.bk_one_sided(u.double(), w.double())
    error = (found.double() - truth).square().sum(-1).sqrt() / truth.square().sum(-1).sqrt()
    norm = float(u.abs().max() + 2 * w.max().sqrt())  # by the rows of H
    assert error.max() <= 4 * torch.finfo(torch.float32).eps * (1 + norm)


def test_long_and_strong_chains_stay_within_one(device: torch.device) -> None:
    u, w = (t.float().to(device) for t in chain(1, 5000, 2, largest=1000.0))
    found = bk_one_sided(u, 1e6 * w)
    assert found.isfinite().all()
    assert found.square().sum(-1).max() <= 1 + 1e-5


def test_what_is_before_a_site_does_not_know_of_it(form: str, device: torch.device) -> None:
    u, w = (t.to(device) for t in chain(1, 120, 2))
    before = bk_one_sided(u, w)
    u[0, 70, 1], w[0, 70, 1] = 50.0, 30.0
    after = bk_one_sided(u, w)
    torch.testing.assert_close(after[:, :70], before[:, :70], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(after[..., 0, :], before[..., 0, :], rtol=1e-12, atol=1e-12)
    assert (after[:, 70] - before[:, 70]).abs().max() > 1e-3


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity_reach_what_is_behind_them_in_their_chain(form: str, bad: float, device: torch.device) -> None:
    u, w = (t.to(device) for t in chain(2, 60, 2))
    u[1, 37, 0] = bad
    found = bk_one_sided(u, w)
    assert found[1, 37:, 0].isnan().all()
    assert found[1, :37].isfinite().all()
    assert found[0].isfinite().all()
    assert found[:, :, 1].isfinite().all()


@pytest.mark.parametrize("n", [1, 2, 16, 37])
def test_its_gradient_is_that_of_differences(form: str, n: int, device: torch.device) -> None:
    u, w = (t.to(device).requires_grad_() for t in chain(1, n, 2))
    assert torch.autograd.gradcheck(bk_one_sided, (u, w), fast_mode=True)


def test_one_link_for_all_gets_the_sum_of_their_gradients(form: str, device: torch.device) -> None:
    u, w = (t.to(device) for t in chain(2, 40, 3))
    seed = torch.randn(2, 40, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(device)
    one = w[0, 0].clone().requires_grad_()
    (bk_one_sided(u, one.expand(u.shape)) * seed).sum().backward()
    each = one.detach().expand(u.shape).clone().requires_grad_()
    (bk_one_sided(u, each) * seed).sum().backward()
    assert one.grad is not None
    assert each.grad is not None
    torch.testing.assert_close(one.grad, each.grad.sum((0, 1)), rtol=1e-10, atol=1e-12)
    assert (each.grad[:, 0] == 0).all()


def test_the_gradient_of_long_chains_is_the_references(device: torch.device) -> None:
    u, w = chain(1, 700, 3)
    grad = torch.randn(1, 700, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    given = [t.to(device).requires_grad_() for t in (u, w)]
    found = torch.autograd.grad((bk_one_sided(*given) * grad.to(device)).sum(), given)
    truth = reference.bk_one_sided_backward(grad, w, reference.bk_one_sided(u, w), True)
    for ours, theirs in zip(found, truth, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "n", "heads", "constant"), [(2, 33, 3, False), (1, 1, 1, False), (1, 150, 5, True)])
def test_triton_joins_tiles_of_chunks(
    batch: int, n: int, heads: int, constant: bool, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fused, "_MOST_CHUNKS", 4)
    u, w = (t.to(device) for t in chain(batch, n, heads))
    w = w[0, 0].expand(u.shape) if constant else w
    grad = torch.randn(*u.shape, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(device)
    rho = reference.bk_one_sided(u, w)
    torch.testing.assert_close(fused.bk_one_sided(u, w), rho, rtol=1e-11, atol=1e-12)
    for of_links in (True, False):
        founds = fused.bk_one_sided_backward(grad, w, rho, of_links)
        truths = reference.bk_one_sided_backward(grad, w, rho, of_links)
        for found, truth in zip(founds, truths, strict=True):
            torch.testing.assert_close(found, truth, rtol=1e-10, atol=1e-11)


@pytest.mark.slow
def test_triton_in_float32_is_as_close_to_the_truth_as_torch(device: torch.device) -> None:
    u, w = (t.float().to(device) for t in chain(2, 50, 3, largest=30.0))
    grad = torch.randn(*u.shape, 2, generator=torch.Generator().manual_seed(0)).to(device)

    def all_of(form: Any, *given: Tensor) -> tuple[Tensor, ...]:
        rho = form.bk_one_sided(*given[:2])
        return rho, *form.bk_one_sided_backward(given[2], given[1], rho, True)

    truths = all_of(reference, u.double(), w.double(), grad.double())
    for found, plain, truth in zip(all_of(fused, u, w, grad), all_of(chunked, u, w, grad), truths, strict=True):
        allowed = 2 * (plain.double() - truth).abs().max() + torch.finfo(u.dtype).eps * truth.abs().max()
        assert (found.double() - truth).abs().max() <= allowed


def test_strides_and_nothing_at_all(form: str, device: torch.device) -> None:
    u, w = (t.to(device) for t in chain(4, 30, 6))
    for one, other in ((u[::2, ::3], w[::2, ::3]), (u[..., 1::2], w[..., 1::2]), (u.mT, w.mT)):
        torch.testing.assert_close(bk_one_sided(one, other), bk_one_sided(one.contiguous(), other.contiguous()))
    nothing = u[:0].requires_grad_()
    found = bk_one_sided(nothing, w[:0])
    assert found.shape == (0, 30, 6, 2)
    found.sum().backward()


@pytest.mark.slow
def test_torch_accepts_the_operator() -> None:
    u, w = (t.requires_grad_() for t in chain(2, 5, 2))
    torch.library.opcheck(operators.bk_one_sided.whole, (u, w))
    torch.library.opcheck(operators.bk_one_sided.whole, (u, w.detach()))


@pytest.mark.slow
def test_a_model_is_compiled_whole_and_exported_without_the_operator() -> None:
    class Layer(torch.nn.Module):
        def forward(self, u: Tensor, w: Tensor) -> Tensor:
            return bk_one_sided(u, w)

    u, w = (t.float() for t in chain(2, 33, 3))
    expected = bk_one_sided(u, w)
    torch.testing.assert_close(torch.compile(Layer(), backend="eager", fullgraph=True)(u, w), expected)
    exported = torch.export.export(Layer(), (u, w))
    assert not any("kernels" in str(node.target) for node in exported.graph.nodes)
    torch.testing.assert_close(exported.module()(u, w), expected)


U, LONG = torch.ones(2, 3, 4), torch.empty(1, 2**31, 1, device="meta")


@pytest.mark.parametrize(
    ("u", "w", "error", "words"),
    [
        (U[0], U[0], ValueError, r"must both be \(batch, n>=1, heads\), got \(3, 4\) and \(3, 4\)"),
        (U, U[:, :2], ValueError, r"got \(2, 3, 4\) and \(2, 2, 4\)"),
        (U[:, :0], U[:, :0], ValueError, "n>=1"),
        (LONG, LONG, ValueError, r"fewer than 2\^31 sites, got 2147483648"),
        (U.half(), U.half(), TypeError, "u must be float32 or float64, got torch.float16"),
        (U, U.double(), TypeError, "w must be torch.float32 as u is, got torch.float64"),
        (U, U.to("meta"), ValueError, "w is on meta and u on cpu"),
    ],
)
def test_what_is_no_chain_is_refused(u: Tensor, w: Tensor, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        bk_one_sided(u, w)


def test_memory_is_asked_for_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10**7)
    with pytest.raises(MemoryError, match=r"bk_one_sided needs 0\.\d\d GB on cpu and 0\.01 GB are free"):
        bk_one_sided(torch.zeros(1, 1, 1).expand(1, 9_000_000, 1), torch.zeros(1, 1, 1).expand(1, 9_000_000, 1))


def test_the_registry_knows_it_and_wide_calls_are_torchs() -> None:
    assert "torch: takes batch 2, n 3, heads 4; float32 on cpu" in registry.why("bk_one_sided", U, U)
    gpu = Machine("cuda", "GPU", (7, 5), 64 * 1024, True)
    for heads, form in ((65_535, "triton"), (65_536, "torch")):
        call = Call(gpu, torch.float32, {"batch": 1, "n": 9, "heads": heads})
        assert operators.FORWARD.choose(call).form.name == form
