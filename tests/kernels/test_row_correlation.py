"""Correlation of rows: numpy's values, float64's truth, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kernels.correlation import row_correlation
from kernels.correlation.rows import fused, operators, reference
from kernels.dispatch import Call
from kernels.machine import Machine

SHAPES = [(1, 2), (3, 63), (5, 1000), (2, 1025)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def _pair(rows: int, n: int, dtype: torch.dtype, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(rows * n)
    x, y = torch.randn(2, rows, n, dtype=torch.float64, generator=rng).to(device, dtype)
    return x, (x + y).to(dtype)


def test_unwritten_memory_is_nan_here() -> None:
    assert torch.empty(1000).isnan().all()


@pytest.mark.parametrize(("rows", "n"), SHAPES)
def test_agrees_with_numpy(rows: int, n: int) -> None:
    x, y = _pair(rows, n, torch.float64, torch.device("cpu"))
    expected = [np.corrcoef(a, b)[0, 1] for a, b in zip(x.numpy(), y.numpy(), strict=True)]
    np.testing.assert_allclose(row_correlation(x, y).numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "n"), SHAPES)
def test_fused_is_as_close_to_the_truth_as_torch(rows: int, n: int, dtype: torch.dtype, device: torch.device) -> None:
    x, y = _pair(rows, n, dtype, device)
    truth = reference.row_correlation(x.double(), y.double())
    plain = reference.row_correlation(x, y)
    allowed = 2 * (plain.double() - truth).abs().max() + torch.finfo(dtype).eps
    assert (fused.row_correlation(x, y).double() - truth).abs().max() <= allowed


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "n"), SHAPES)
def test_fused_gradients_are_as_close_as_torch(rows: int, n: int, dtype: torch.dtype, device: torch.device) -> None:
    x, y = _pair(rows, n, dtype, device)
    grad = torch.linspace(-1, 1, rows, dtype=dtype, device=device)
    truths = reference.row_correlation_backward(grad.double(), x.double(), y.double())
    plains = reference.row_correlation_backward(grad, x, y)
    for rows_of, found, plain, truth in zip(
        (x, y), fused.row_correlation_backward(grad, x, y), plains, truths, strict=True
    ):
        steepest = 1 / torch.linalg.vector_norm(rows_of.double() - rows_of.double().mean(1, keepdim=True), dim=1).min()
        allowed = 2 * (plain.double() - truth).abs().max() + torch.finfo(dtype).eps * steepest
        assert (found.double() - truth).abs().max() <= allowed


def test_gradients_are_those_of_finite_differences() -> None:
    x, y = _pair(3, 7, torch.float64, torch.device("cpu"))
    assert torch.autograd.gradcheck(row_correlation, (x.requires_grad_(), y.requires_grad_()))


@pytest.mark.slow
@pytest.mark.usefixtures("triton_form")
def test_gradients_in_triton_are_those_of_finite_differences(device: torch.device) -> None:
    x, y = _pair(3, 7, torch.float64, device)
    assert torch.autograd.gradcheck(row_correlation, (x.requires_grad_(), y.requires_grad_()))


@pytest.mark.parametrize("form", ["torch", "triton"])
def test_a_constant_row_correlates_with_nothing_and_nan_goes_through(
    form: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERNELS_FORM", form)
    x, y = torch.full((5, 7), 0.1, device=device), torch.randn(5, 7, device=device)
    x[1, 3], x[2, 3], x[4] = float("nan"), float("inf"), float("inf")
    x[3] = y[3]
    found = row_correlation(x, y)
    assert found[0] == 0
    assert found[[1, 2, 4]].isnan().all()
    assert found[3].item() == pytest.approx(1.0)
    x.requires_grad_()
    row_correlation(x, y)[0].backward()
    assert x.grad is not None
    assert (x.grad[0] == 0).all()


@pytest.mark.parametrize("form", ["torch", "triton"])
def test_sums_are_wider_than_float16(form: str, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """The length of such a row is 90,000, beyond float16."""
    monkeypatch.setenv("KERNELS_FORM", form)
    x = torch.tensor([[6e4, -6e4, 3e4]], device=device, dtype=torch.float16)
    torch.testing.assert_close(row_correlation(x, -x), torch.full((1,), -1.0, device=device, dtype=torch.float16))


@pytest.mark.parametrize("form", ["torch", "triton"])
@pytest.mark.parametrize("scale", [2.0**-40, 2.0**40])
def test_a_power_of_two_changes_nothing(
    scale: float, form: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    """A row is constant where all is equal, not where all is small."""
    monkeypatch.setenv("KERNELS_FORM", form)
    x, y = _pair(4, 33, torch.float32, device)
    assert torch.equal(row_correlation(x * scale, y), row_correlation(x, y))


@pytest.mark.parametrize("form", ["torch", "triton"])
def test_strides_and_no_rows_at_all(form: str, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERNELS_FORM", form)
    x, y = _pair(8, 10, torch.float32, device)
    torch.testing.assert_close(row_correlation(x[::2], y[::2]), row_correlation(x, y)[::2])
    torch.testing.assert_close(row_correlation(x.T, y.T), row_correlation(x.T.contiguous(), y.T.contiguous()))
    assert row_correlation(x[:0], y[:0]).shape == (0,)


@pytest.mark.slow
def test_torch_accepts_the_operator() -> None:
    x, y = _pair(3, 7, torch.float64, torch.device("cpu"))
    torch.library.opcheck(operators.row_correlation.whole, (x.requires_grad_(), y.requires_grad_()))


@pytest.mark.parametrize(
    ("x", "y", "error", "words"),
    [
        (torch.ones(2, 3), torch.ones(2, 4), ValueError, r"\(2, 3\) and \(2, 4\)"),
        (torch.ones(2, 1), torch.ones(2, 1), ValueError, "n>=2"),
        (torch.ones(2, 3), torch.ones(2, 3).double(), ValueError, "must be alike"),
        (torch.ones(2, 3).int(), torch.ones(2, 3).int(), TypeError, "floating point"),
    ],
)
def test_what_is_no_pair_of_rows_is_refused(
    x: torch.Tensor, y: torch.Tensor, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        row_correlation(x, y)


@pytest.mark.parametrize(
    ("capability", "rows", "n", "why"),
    [
        ((7, 5), 100, 1000, ""),
        ((9, 0), 2**31, 2, "more programs than CUDA launches"),
        ((9, 0), 100, 20_000, "do not fit the registers"),
        ((6, 1), 100, 1000, "needs compute capability 7.0"),
    ],
)
def test_what_no_program_holds_runs_in_torch(capability: tuple[int, int], rows: int, n: int, why: str) -> None:
    machine = Machine("cuda", "GPU", capability, 64 * 1024, has_triton=True)
    choice = operators.ROWS.choose(Call(machine, torch.float32, {"rows": rows, "n": n}))
    assert choice.form.name == ("torch" if why else "triton")
    assert why in str(choice)
