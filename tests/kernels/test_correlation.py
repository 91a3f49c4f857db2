"""Correlation between columns: numpy's values, float64's truth, means far from zero, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
import triton
import triton.language as tl

from kernels import registry
from kernels.correlation import correlation, correlation_workspace_bytes
from kernels.correlation.columns import fused, moments, operators, reference
from kernels.dispatch import Call
from kernels.machine import Machine

pytestmark = pytest.mark.slow

SHAPES = [(2, 1), (3, 5), (63, 7), (1000, 33), (129, 130), (40, 300)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
FORMS = ["torch", "triton"]


def _data(rows: int, width: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> torch.Tensor:
    """Columns that share a part, so that correlations are far from zero."""
    rng = torch.Generator().manual_seed(rows * width)
    shared, own = torch.randn(2, rows, width, dtype=torch.float64, generator=rng)
    return (own + shared[:, :1]).to(device, dtype)


def _largest_error(found: torch.Tensor, truth: torch.Tensor) -> float:
    assert found.shape == truth.shape
    return (found.double() - truth).abs().max().item() if truth.numel() else 0.0


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("KERNELS_FORM", request.param)
    return str(request.param)


@pytest.mark.parametrize(("rows", "width"), [(3, 5), (1000, 33), (129, 130)])
def test_agrees_with_numpy(rows: int, width: int) -> None:
    x = _data(rows, width, torch.float64)
    np.testing.assert_allclose(correlation(x).numpy(), np.corrcoef(x.numpy(), rowvar=False), atol=1e-12)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "width"), SHAPES)
def test_as_close_to_the_truth_as_torch(rows: int, width: int, dtype: torch.dtype, device: torch.device) -> None:
    x = _data(rows, width, dtype, device)
    truth = reference.correlation(x.double())
    allowed = 2 * _largest_error(reference.correlation(x), truth) + torch.finfo(dtype).eps
    assert _largest_error(correlation(x), truth) <= allowed


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("drift", ["none", "linear", "one jump", "first rows apart"])
def test_a_mean_of_ten_thousand_deviations_costs_no_digits(drift: str, device: torch.device) -> None:
    rows = 3000
    x = _data(rows, 40, torch.float64)
    along = torch.linspace(0, 1, rows, dtype=torch.float64)[:, None]
    x = x + 1e4 * (1 + torch.arange(40) / 40) * {"none": 1.0, "linear": 1 + along}.get(drift, 1.0)
    if drift == "one jump":
        x[rows // 3 :] -= 2e4
    if drift == "first rows apart":
        x[:100] += 3e4
    x = x.to(device, torch.float32)
    truth = reference.correlation(x.double())
    assert _largest_error(correlation(x), truth) <= 16 * torch.finfo(torch.float32).eps


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_of_whole_numbers_are_those_of_their_own_rows(dtype: torch.dtype, device: torch.device) -> None:
    """One row that is multiplied with another's would change them by more than rounding does."""
    rows, width = (65_536, 384) if device.type == "cuda" else (1300, 40)
    x = torch.randint(-3, 4, (rows, width), generator=torch.Generator().manual_seed(0)).to(device, dtype)
    wide = x.double()
    centred = wide - wide.mean(0)
    for _ in range(3):
        mean, found = operators.comoments(x)
        assert (mean - wide.mean(0)).abs().max() <= 1e-6
        assert (found - centred.T @ centred).abs().max() <= 0.5


@pytest.mark.usefixtures("triton_form")
def test_tiles_near_zero_are_not_shifted(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 on a GPU; here float32 stands in for it, whose products the interpreter knows."""
    monkeypatch.setattr(fused, "_takes_descriptors", lambda x: True)
    if device.type != "cuda":
        monkeypatch.setattr(fused, "_ended", lambda x: x)  # the interpreter runs no assembler, and in order
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    x = _data(1100, 136, torch.float64) + 1
    x[:, 130:134] += 100
    x[:, 3], x[:, 4], x[:, 132] = 0.0, 0.0, 7.0
    x = x.to(device, dtype)
    truth = reference.correlation(x.double())
    found = correlation(x)
    borne = 16 * torch.finfo(torch.float32).eps  # a mean of four deviations makes sums of squares 17 times as large
    assert _largest_error(found, truth) <= torch.finfo(dtype).eps + borne
    assert torch.equal(found, found.T)
    for constant in (3, 4, 132):
        assert found[constant].count_nonzero() == 1
    x[550, 1] = float("nan")
    assert correlation(x).isnan().sum() == 2 * 136 - 1


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("dtype", DTYPES)
def test_symmetric_to_the_bit_with_ones_on_the_diagonal(dtype: torch.dtype, device: torch.device) -> None:
    r = correlation(_data(100, 140, dtype, device))
    assert torch.equal(r, r.T)
    assert (r.diagonal() == 1).all()
    assert r.abs().max() <= 1


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
def test_constant_columns_and_equal_ones(
    dtype: torch.dtype, device: torch.device, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if dtype == torch.float64:
        monkeypatch.setenv("KERNELS_FORM", "torch")
    x = _data(1500, 6, dtype, device)
    x[:, 1], x[:, 2] = 0.1, 0.0
    x[:, 4] = -x[:, 3]
    r = correlation(x.requires_grad_())
    for constant in (1, 2):
        expected = torch.zeros(6, dtype=dtype, device=device)
        expected[constant] = 1
        assert torch.equal(r[constant], expected)
    assert r[3, 4].item() == pytest.approx(-1.0, abs=2 * torch.finfo(dtype).eps)
    (r * torch.randn_like(r)).sum().backward()
    assert x.grad is not None
    assert (x.grad[:, 1:3] == 0).all()
    assert x.grad.isfinite().all()


@pytest.mark.usefixtures("form")
def test_whatever_a_column_is_constant_at_it_is_found(device: torch.device) -> None:
    """The mean of equal numbers is seldom that number: three in four of these are missed by it."""
    constants = torch.rand(60, generator=torch.Generator().manual_seed(0)) * 9
    x = torch.cat([_data(700, 1, torch.float32), constants.expand(700, 60)], dim=1).to(device)
    r = correlation(x)
    assert torch.equal(r, torch.eye(61, device=device))


@pytest.mark.usefixtures("form")
def test_multiples_of_a_column_correlate_with_it_by_one_at_most(device: torch.device) -> None:
    x = (_data(1000, 1, torch.float32) * torch.linspace(0.3, 7, 64)).to(device)
    r = correlation(x)
    assert r.max() == 1
    assert r.min() >= 1 - 16 * torch.finfo(torch.float32).eps


def test_first_rows_that_lie_apart_do_not_make_the_shift() -> None:
    """Of 100,000 rows the first 600: shifted by the mean of the first 512, sums would lose 160 times as much."""
    x = _data(100_000, 4, torch.float64)
    x[:600] += 1e4
    x = x.float()
    truth = reference.correlation(x.double())
    assert _largest_error(correlation(x), truth) <= _largest_error(reference.correlation(x), truth) / 10


@pytest.mark.parametrize(("dtype", "scale", "mean"), [(torch.float16, 100.0, 0.0), (torch.bfloat16, 1.0, 100.0)])
def test_gradients_lose_nothing_where_numbers_are_small_or_means_large(
    dtype: torch.dtype, scale: float, mean: float, device: torch.device
) -> None:
    """Both would be lost by plain arithmetic in that dtype; a centred gradient adds up to zero over the rows."""
    x = (_data(1000, 6, torch.float64) * scale + mean).to(device, dtype)
    grad = torch.randn(6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(device, dtype)
    truth = reference.correlation_backward(grad.double(), x.double())
    correlation(x.requires_grad_()).backward(grad)
    assert x.grad is not None
    largest = truth.abs().max().item()
    assert _largest_error(x.grad, truth) <= 2 * torch.finfo(dtype).eps * largest
    assert x.grad.double().sum(0).abs().max() <= 1000**0.5 * torch.finfo(dtype).eps * largest


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("row", [0, 5, 69])
def test_what_is_not_finite_goes_through_its_column_alone(bad: float, row: int, device: torch.device) -> None:
    x = _data(70, 5, torch.float32, device)
    x[:, 3] = 2.0
    clean = correlation(x)
    x[row, 1] = bad
    found = correlation(x)
    assert found[1].isnan().all()
    assert found[:, 1].isnan().all()
    others = [0, 2, 3, 4]
    torch.testing.assert_close(found[others][:, others], clean[others][:, others])


@pytest.mark.usefixtures("form")
def test_a_column_of_infinities_is_not_constant(device: torch.device) -> None:
    x = _data(70, 3, torch.float32, device)
    x[:, 1] = float("inf")
    for found in (correlation(x), reference.correlation(x)):
        assert found[1].isnan().all()
        assert found[:, 1].isnan().all()
        assert found[[0, 2]][:, [0, 2]].isfinite().all()


@pytest.mark.usefixtures("form")
def test_strides_and_no_columns_at_all(device: torch.device) -> None:
    x = _data(60, 40, torch.float32, device)
    torch.testing.assert_close(correlation(x[::2, ::3]), correlation(x[::2, ::3].contiguous()))
    torch.testing.assert_close(correlation(x.T), correlation(x.T.contiguous()))
    assert correlation(x[:, :0]).shape == (0, 0)


@pytest.mark.usefixtures("form")
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_are_as_close_as_torch(dtype: torch.dtype, device: torch.device) -> None:
    x = _data(50, 9, dtype, device)
    grad = torch.randn(9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(device, dtype)
    truth = reference.correlation_backward(grad.double(), x.double())
    plain = reference.correlation_backward(grad, x)
    correlation(x.requires_grad_()).backward(grad)
    assert x.grad is not None
    allowed = 2 * _largest_error(plain, truth) + torch.finfo(dtype).eps * truth.abs().max().item()
    assert _largest_error(x.grad, truth) <= allowed


def test_gradients_are_those_of_finite_differences() -> None:
    x = _data(7, 4, torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: correlation(x).tril(-1), x)
    grad = torch.randn(4, 4, dtype=torch.float64)
    correlation(x).backward(grad)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, reference.correlation_backward(grad, x.detach()))


def test_panels_and_blocks_leave_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    x = _data(500, 70, torch.float64)
    whole = moments.comoments(x)
    monkeypatch.setattr(moments, "_PANEL", 32)
    monkeypatch.setattr(moments, "_BLOCK_ELEMENTS", 7000)
    for found, expected in zip(moments.comoments(x), whole, strict=True):
        torch.testing.assert_close(found, expected)


def test_torch_accepts_the_operator() -> None:
    torch.library.opcheck(operators.correlation.whole, (_data(7, 4, torch.float64).requires_grad_(),))


def test_is_exported_in_plain_operators_and_runs_in_onnxruntime(tmp_path: Path) -> None:
    class Columns(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return correlation(x)

    x = _data(40, 6, torch.float32)
    x[:, 2] = 0.1
    rows = {"x": {0: torch.export.Dim("rows", min=2)}}
    program = torch.onnx.export(
        Columns().eval(), (x,), dynamic_shapes=rows, dynamo=True, opset_version=18, verbose=False
    )
    assert program is not None
    assert {node.domain for node in program.model.graph} <= {""}
    program.save(tmp_path / "correlation.onnx")
    session = ort.InferenceSession(tmp_path / "correlation.onnx")
    for data in (x, x[:23]):
        (found,) = session.run(None, {"x": data.numpy()})
        np.testing.assert_allclose(found, correlation(data).numpy(), atol=1e-6)


@triton.jit
def _tiles_of(Tile, Row, Column):
    place = tl.program_id(0)
    i, j = fused._tile_of(tl.load(Tile + place))
    tl.store(Row + place, i)
    tl.store(Column + place, j)


def test_tiles_of_the_lower_half_are_found_where_roots_are_rounded(device: torch.device) -> None:
    """As many as columns of 2**21 have; float32 counts no further than 2**24."""
    rows = torch.tensor([0, 1, 2, 5, 100, 1447, 1448, 2047, 2048, 5792, 5793, 10_001, 16_383], dtype=torch.int32)
    first = rows * (rows + 1) // 2
    asked = torch.cat([first, first + rows // 2, first + rows]).to(device)
    found = torch.empty(2, len(asked), dtype=torch.int32, device=device)
    _tiles_of[(len(asked),)](asked, found[0], found[1])
    assert found[0].cpu().tolist() == rows.repeat(3).tolist()
    assert found[1].cpu().tolist() == torch.cat([0 * rows, rows // 2, rows]).tolist()


def test_memory_is_asked_for_first(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.ones(2, 3000)
    assert correlation_workspace_bytes(x) > 3 * 4 * 3000**2
    monkeypatch.setattr("kernels.memory.free_bytes", lambda device: 10**6)
    with pytest.raises(MemoryError, match=r"correlation needs 0\.\d+ GB on cpu"):
        correlation(x)


def test_which_form_runs_and_why() -> None:
    assert "torch: takes T 3, D 5; float64 on cpu" in registry.why("correlation", _data(3, 5, torch.float64))
    assert "float64 is finer" in registry.why("correlation", _data(3, 5, torch.float64))


T4 = Machine("cuda", "Tesla T4", (7, 5), 64 * 1024, has_triton=True)
H100 = Machine("cuda", "H100", (9, 0), 227 * 1024, has_triton=True)


@pytest.mark.parametrize(
    ("machine", "dtype", "rows", "form", "why"),
    [
        (H100, torch.bfloat16, 65_536, "triton", ""),
        (H100, torch.float32, 65_536, "triton", ""),
        (H100, torch.float64, 65_536, "torch", "float64 is finer"),
        (H100, torch.float32, 2**31, "torch", "are not counted in 32 bits"),
        (T4, torch.float32, 65_536, "torch", "need compute capability 8.0, Tesla T4 (sm_75) has less"),
        (T4, torch.bfloat16, 65_536, "torch", "need compute capability 8.0, Tesla T4 (sm_75) has less"),
        (Machine("cuda", "H100", (9, 0)), torch.float32, 65_536, "torch", "Triton is not installed"),
    ],
)
def test_each_machine_gets_the_form_that_it_can_run(
    machine: Machine, dtype: torch.dtype, rows: int, form: str, why: str
) -> None:
    choice = operators.COLUMNS.choose(Call(machine, dtype, {"T": rows, "D": 512}))
    assert choice.form.name == form
    assert why in str(choice)


@pytest.mark.parametrize(
    ("x", "error", "words"),
    [
        (torch.ones(1, 4), ValueError, r"T>=2, D\), got \(1, 4\)"),
        (torch.ones(4), ValueError, r"got \(4,\)"),
        (torch.ones(4, 2, dtype=torch.int32), TypeError, "floating point numbers, got torch.int32"),
    ],
)
def test_what_is_no_matrix_of_rows_is_refused(x: torch.Tensor, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        correlation(x)
