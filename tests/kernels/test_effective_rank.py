"""Effective ranks: what is known in closed form, float64's singular values, gradients, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path

import onnxruntime as ort
import pytest
import torch

from kernels import KernelUnavailable, registry
from kernels.dispatch import Call, Operator
from kernels.effective_rank import (
    KINDS,
    effective_rank,
    effective_rank_workspace_bytes,
    eigenvalues,
    operators,
    products,
    reference,
)
from kernels.effective_rank.stable import ALLOWED_ERROR
from kernels.machine import Machine

pytestmark = pytest.mark.slow

PROMISED = {"participation": 1e-5, "entropy": 1e-3, "stable": ALLOWED_ERROR}
"""Relative, of the form in products."""


def _randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _with_singular_values(sigma: torch.Tensor) -> torch.Tensor:
    n = len(sigma)
    left, right = (torch.linalg.qr(_randn(n, n, seed=seed))[0] for seed in (1, 2))
    return left * sigma @ right


SPECTRA = {
    "random": _randn(2, 90, 70),
    "wide": _randn(2, 40, 130),
    "of rank 3": _randn(2, 100, 3) @ _randn(2, 3, 80),
    "nearly of rank 3": _randn(2, 100, 3) @ _randn(2, 3, 80) + 1e-4 * _randn(2, 100, 80),
    "all equal": _with_singular_values(torch.ones(100, dtype=torch.float64)),
    "one over k": _with_singular_values(1 / torch.arange(1, 101, dtype=torch.float64)),
    "over ten decades": _with_singular_values(torch.logspace(0, -10, 100, dtype=torch.float64)),
    "one large": _with_singular_values(torch.cat([torch.ones(1), torch.full((99,), 2e-7)]).double()),
    "one element": _randn(1, 1),
    "one row": _randn(3, 1, 9),
    "of 65": _randn(65, 65),
}


@pytest.mark.parametrize("kind", KINDS)
def test_known_in_closed_form(kind: str) -> None:
    assert effective_rank(torch.eye(7, dtype=torch.float64), kind=kind).item() == pytest.approx(7)
    assert effective_rank(torch.outer(_randn(5), _randn(6)), kind=kind).item() == pytest.approx(1, abs=1e-5)
    sigma = torch.tensor([4.0, 2.0, 1.0])
    p = sigma / sigma.sum()
    expected = {
        "participation": 21**2 / (256 + 16 + 1),
        "entropy": math.exp(-(p * p.log()).sum()),
        "stable": 21 / 16,
    }[kind]
    assert effective_rank(torch.diag(sigma), kind=kind).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_products_keep_the_promised_error(spectrum: str, kind: str, device: torch.device) -> None:
    w = SPECTRA[spectrum].to(device, torch.float32)
    truth = reference.effective_rank(w.double(), kind)
    found = products.effective_rank(w, kind)
    assert ((found - truth) / truth).abs().max() <= PROMISED[kind]


def test_the_bounds_of_the_stable_rank_are_taken_in_their_middle() -> None:
    """Many singular values just below the largest: one of the two bounds on it alone would be off by 0.48 %."""
    sigma = torch.full((500,), 499.0 ** (-1 / 2 / 1024), dtype=torch.float64)
    sigma[0] = 1
    found, truth = products.effective_rank(torch.diag(sigma), "stable"), sigma.square().sum()
    assert abs(found / truth - 1) <= math.log(500) / (4 * 512)


@pytest.mark.parametrize("n", [1, 2, 10, 100])
def test_the_step_of_the_entropys_integral_costs_what_it_is_said_to(n: int) -> None:
    """README: at a step of 2 an entropy of equal singular values is off by 6e-5 at worst; ends are summed closed."""
    x = 2.0 * torch.arange(-60, 61, dtype=torch.float64)
    terms = n * torch.log1p((-x).exp() / n) * (x / 2).exp() * 2.0
    sigma = terms.sum() / (2 * math.pi)
    sigma_log = (terms * x).sum() / (4 * math.pi) + sigma
    by_steps = (sigma.log() - sigma_log / sigma).exp().item()
    found = products.effective_rank(torch.eye(n, dtype=torch.float64), "entropy").item()
    assert found == pytest.approx(by_steps, rel=2e-7)
    assert found == pytest.approx(n, rel=6e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_eigenvalues_are_as_close_to_the_truth_as_torch(spectrum: str, kind: str, device: torch.device) -> None:
    w = SPECTRA[spectrum].to(device, torch.float32)
    truth = reference.effective_rank(w.double(), kind)
    plain = (reference.effective_rank(w, kind) - truth).abs().max()
    allowed = 2 * plain + 2e-7 * min(w.shape[-2:]) * truth.max()  # what eigenvalues.py says that squaring costs
    assert (eigenvalues.effective_rank(w, kind) - truth).abs().max() <= allowed


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["products", "eigenvalues", "torch"])
def test_zeros_have_rank_zero_and_nan_stays_in_its_matrix(kind: str, form: str, device: torch.device) -> None:
    compute = {"products": products, "eigenvalues": eigenvalues}.get(form, reference).effective_rank
    w = _randn(4, 70, 66).to(device, torch.float32)
    w[0] = 0
    w[1] *= 2.0**-100
    assert compute(w, kind)[0] == 0
    assert torch.equal(compute(w[1:2] * 2.0**100, kind), compute(w[1:2], kind))
    if form == "torch":
        return  # its decomposition refuses what is not finite
    w[2, 3, 4], w[3, 5, 6] = math.nan, math.inf
    found = compute(w, kind)
    assert found[:2].isfinite().all()
    assert found[2:].isnan().all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_ranks_are_wide_and_do_not_depend_on_scale(kind: str, dtype: torch.dtype, device: torch.device) -> None:
    w = _randn(2, 3, 20, 30).to(device, dtype)
    found = effective_rank(w, kind=kind)
    assert found.shape == (2, 3)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(effective_rank(w * 2.0**10, kind=kind), found)
    torch.testing.assert_close(effective_rank(w.mT, kind=kind), found)


@pytest.mark.parametrize("kind", KINDS)
def test_without_elements_there_is_no_rank(kind: str) -> None:
    assert torch.equal(effective_rank(torch.ones(2, 0, 3), kind=kind), torch.zeros(2))
    assert effective_rank(torch.ones(0, 4, 3), kind=kind).shape == (0,)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_finite_differences(kind: str) -> None:
    w = _randn(2, 4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda w: effective_rank(w, kind=kind), w)
    assert torch.autograd.gradcheck(lambda w: effective_rank(w.mT, kind=kind), w)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(90, 70), (70, 90)])
def test_gradients_are_those_of_singular_values(shape: tuple[int, int], kind: str, device: torch.device) -> None:
    w = _randn(2, *shape).to(device).requires_grad_()
    truth = torch.autograd.grad(reference.effective_rank(w, kind).sum(), w)[0]
    torch.testing.assert_close(torch.autograd.grad(effective_rank(w, kind=kind).sum(), w)[0], truth)
    narrow = w.detach().float().requires_grad_()
    found = torch.autograd.grad(effective_rank(narrow, kind=kind).sum(), narrow)[0]
    torch.testing.assert_close(found, truth.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_zeros_are_zero_and_of_ties_finite(kind: str) -> None:
    w = torch.stack([torch.zeros(4, 3), torch.eye(4, 3), torch.full((4, 3), math.nan)]).requires_grad_()
    found = torch.autograd.grad(effective_rank(w, kind=kind).sum(), w)[0]
    assert (found[0] == 0).all()
    assert torch.allclose(found[1], torch.zeros(4, 3), atol=1e-6)  # the rank is at its largest there
    assert found[2].isnan().all()


def test_only_equal_singular_values_share_a_slope() -> None:
    w = (_with_singular_values(torch.tensor([1.0, 0.999, 0.5], dtype=torch.float64))).requires_grad_()
    truth = torch.autograd.grad(reference.effective_rank(w, "stable"), w)[0]
    torch.testing.assert_close(torch.autograd.grad(effective_rank(w, kind="stable"), w)[0], truth)


@pytest.mark.parametrize("kind", KINDS)
def test_torch_accepts_the_operator(kind: str) -> None:
    torch.library.opcheck(operators.effective_rank.whole, (_randn(2, 4, 3).requires_grad_(), kind))


@pytest.mark.parametrize("kind", KINDS)
def test_is_exported_in_plain_operators_and_runs_in_onnxruntime(kind: str, tmp_path: Path) -> None:
    class Rank(torch.nn.Module):
        def forward(self, w: torch.Tensor) -> torch.Tensor:
            return effective_rank(w, kind=kind)  # type: ignore[arg-type]

    w = _randn(3, 9, 6).float()
    program = torch.onnx.export(Rank().eval(), (w,), dynamo=True, opset_version=18, verbose=False)
    assert program is not None
    assert {node.domain for node in program.model.graph} <= {""}
    program.save(tmp_path / "rank.onnx")
    session = ort.InferenceSession(tmp_path / "rank.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: w.numpy()})
    truth = reference.effective_rank(w.double(), kind)
    assert ((torch.as_tensor(found) - truth) / truth).abs().max() <= PROMISED[kind]


def test_large_entropies_are_not_exported() -> None:
    class Rank(torch.nn.Module):
        def forward(self, w: torch.Tensor) -> torch.Tensor:
            return effective_rank(w, kind="entropy")

    with pytest.raises(ValueError, match="at most 128 columns, these have 129: export the participation"):
        torch.export.export(Rank(), (torch.ones(129, 140),))


def test_which_form_runs_and_why(monkeypatch: pytest.MonkeyPatch) -> None:
    w = torch.ones(2, 3, 4)
    assert registry.why("effective_rank.participation", w).startswith("products: takes batch 2, m 3, n 4")
    assert "not products: eigenvalues take a cpu less time" in registry.why("effective_rank.entropy", w)
    monkeypatch.setenv("KERNELS_FORM", "effective_rank=cuda")
    with pytest.raises(KernelUnavailable, match="no form 'cuda'; it has products, eigenvalues, torch"):
        effective_rank(w)


@pytest.mark.parametrize("operator", [operators.ENTROPY, operators.STABLE])
@pytest.mark.parametrize(("dtype", "form"), [(torch.float32, "products"), (torch.float64, "eigenvalues")])
def test_a_gpu_multiplies_instead(operator: Operator[torch.Tensor], dtype: torch.dtype, form: str) -> None:
    call = Call(Machine("cuda", "Tesla T4", (7, 5)), dtype, {"batch": 2, "m": 3, "n": 4})
    assert operator.choose(call).form.name == form


def test_memory_is_asked_for_first(monkeypatch: pytest.MonkeyPatch) -> None:
    w = torch.ones(3000, 3000)
    assert effective_rank_workspace_bytes(w, kind="entropy") >= 8 * 3 * 3000**2
    assert 4 * 3 * 3000**2 <= effective_rank_workspace_bytes(w) <= 4 * 4 * 3000**2
    monkeypatch.setattr("kernels.memory.free_bytes", lambda device: 10**6)
    with pytest.raises(MemoryError, match=r"effective_rank needs 0\.\d+ GB on cpu"):
        effective_rank(w)


@pytest.mark.parametrize(
    ("w", "kind", "error", "words"),
    [
        (torch.ones(3), "stable", ValueError, r"\(\.\.\., m, n\), got \(3,\)"),
        (torch.ones(3, 3), "nuclear", ValueError, "unknown kind 'nuclear'; known: participation, entropy, stable"),
        (torch.ones(3, 3).int(), "stable", TypeError, "floating point numbers, got torch.int32"),
    ],
)
def test_what_has_no_rank_is_refused(w: torch.Tensor, kind: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        effective_rank(w, kind=kind)  # type: ignore[arg-type]
