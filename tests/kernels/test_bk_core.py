"""The diagonal of resolvents: dense inverses' truth, every form, every gradient, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch

from kernels import KernelUnavailable, memory
from kernels.bk_core import bk_core, bk_features, chunked, doubling, fused, operators, reference
from kernels.bk_core.chain import Chain
from kernels.bk_core.fused import segments
from kernels.dispatch import Call
from kernels.machine import Machine

pytestmark = pytest.mark.slow

SHAPES = [(1, 1), (2, 2), (3, 3), (3, 63), (2, 64), (5, 131), (1, 1000)]
ENERGIES = [0.3 + 1j, -2.0 + 0.01j, 1.0 + 1e-3j, 0.5 + 1e4j]
GPU = torch.cuda.is_available()
SLOW = ("reference",) if GPU else ("reference", "triton")
"""Site after site, or interpreted: on few sites."""
FORMS = ["torch", "triton", "reference"] + ["cuda"] * GPU
FAST = [form for form in FORMS if form not in SLOW]
C = 4
"""As the docstring states it: the relative error is below C eps (1 + |H - z| / Im z)."""


def _potential(batch: int, n: int, largest: float = 1.0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    rng = torch.Generator().manual_seed(batch * n)
    return (largest * (2 * torch.rand(batch, n, dtype=torch.float64, generator=rng) - 1)).to(dtype)


def _dense(
    v: torch.Tensor, z: complex | torch.Tensor, upper: float | torch.Tensor, lower: float | torch.Tensor
) -> torch.Tensor:
    """H0 + diag(v) - z, complex128; H0 has 2 on its diagonal."""
    batch, n = v.shape
    link = torch.ones(batch, n - 1, dtype=torch.float64, device=v.device)
    matrix = torch.diag_embed(link * upper, 1) + torch.diag_embed(link * lower, -1) + torch.diag_embed(v.double() + 2)
    shift = torch.as_tensor(z, dtype=torch.complex128, device=v.device).reshape(-1, 1, 1)
    return matrix - shift * torch.eye(n, device=v.device)


def _truth(
    v: torch.Tensor, z: complex | torch.Tensor, upper: float | torch.Tensor = -1, lower: float | torch.Tensor = -1
) -> torch.Tensor:
    return torch.linalg.inv(_dense(v, z, upper, lower)).diagonal(dim1=1, dim2=2)


def _error(found: torch.Tensor, truth: torch.Tensor) -> float:
    """The largest relative one."""
    return ((found.to(torch.complex128) - truth).abs() / truth.abs()).max().item()


def _allowed(v: torch.Tensor, z: complex) -> float:
    norm = (v.double().abs() + 4 + abs(z)).max().item()  # by its rows
    return C * torch.finfo(v.dtype).eps * (1 + norm / z.imag)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("largest", [0.0, 1.0, 1e3])
def test_agrees_with_dense_inverses(
    form: str, dtype: torch.dtype, largest: float, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERNELS_FORM", form)
    for batch, n in SHAPES if form in FAST else SHAPES[1:4:2]:
        v = _potential(batch, n, largest, dtype).to(device)
        for z in ENERGIES if form != "triton" or GPU else ENERGIES[1:2]:
            found, truth = bk_core(v, z=z), _truth(v, z)
            assert found.shape == (batch, n)
            assert found.dtype == dtype.to_complex()
            assert _error(found, truth) <= _allowed(v, z), (batch, n, z)


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("largest", [0.0, 1.0, 30.0, 1e3])
def test_one_over_the_axis_it_is_as_accurate_as_promised(dtype: torch.dtype, allowed: float, largest: float) -> None:
    v = _potential(1, 1024, largest, dtype)
    assert _error(bk_core(v, z=2 + 1j), _truth(v, 2 + 1j)) <= allowed


@pytest.mark.parametrize("form", FAST)
def test_long_chains_with_any_potential_stay_finite(
    form: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERNELS_FORM", form)
    n = 131_072
    for imag in (1e-3, 1.0, 1e5):
        for largest in (0.0, 1.0, 1e3):
            v = _potential(1, n, largest, torch.float32).to(device).requires_grad_()
            found = bk_core(v, z=complex(0.1, imag))
            found.abs().sum().backward()
            assert found.abs().max() <= 1.001 / imag
            assert v.grad is not None
            assert v.grad.isfinite().all()


def test_a_chain_without_potential_is_known_in_closed_form() -> None:
    """Green's function of a long free chain, in its middle: 1 / (z' sqrt(1 - 4 / z'^2)) with z' = 2 - z."""
    z = 1.3 + 0.2j
    found = bk_core(torch.zeros(1, 2001, dtype=torch.float64), z=z)[0, 1000].item()
    assert abs(found - 1 / ((2 - z) * (1 - 4 / (2 - z) ** 2) ** 0.5)) < 1e-12


def _inputs(batch: int, n: int, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    """v, z, upper, lower and diagonal: of each row its own."""
    rng = torch.Generator().manual_seed(n)
    v, diagonal = torch.randn(2, batch, n, dtype=torch.float64, generator=rng)
    upper, lower = 0.2 + torch.rand(2, batch, n - 1, dtype=torch.float64, generator=rng)
    real, imag = torch.rand(2, batch, dtype=torch.float64, generator=rng)
    z = torch.complex(real, imag + 0.2)
    return v.to(dtype), z.to(dtype.to_complex()), upper.to(dtype), lower.to(dtype), diagonal.to(dtype)


def _of_all(
    v: torch.Tensor, z: torch.Tensor, upper: torch.Tensor, lower: torch.Tensor, a: torch.Tensor
) -> torch.Tensor:
    return bk_core(v, z=z, upper=upper, lower=lower, diagonal=a)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_those_of_finite_differences(
    form: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERNELS_FORM", form)
    given = [x.to(device).requires_grad_() for x in _inputs(2, 7)]
    assert torch.autograd.gradcheck(_of_all, given, fast_mode=form in SLOW)


@pytest.mark.parametrize("form", FAST)
def test_rows_of_many_chunks_are_as_the_reference_has_them(form: str, device: torch.device) -> None:
    v, z, upper, lower, _ = _inputs(2, 5003, torch.float32)
    grad = torch.randn(2, 5003, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    wide = Chain(v.double(), (upper * lower).double(), z.to(torch.complex128))
    truths = (reference.bk_core(wide), *reference.bk_core_backward(grad.to(torch.complex128), wide))
    chain = Chain(v.to(device), (upper * lower).to(device), z.to(device))
    forward, backward = ({f.name: f.load() for f in o.forms}[form] for o in (operators.FORWARD, operators.BACKWARD))
    for found, truth in zip((forward(chain), *backward(grad.to(device), chain)), truths, strict=True):
        assert (found.cpu() - truth).norm() <= 100 * torch.finfo(torch.float32).eps * truth.norm()


def test_triton_goes_on_from_segment_to_segment(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "_THREADS", 2)
    monkeypatch.setattr(segments, "_TILE", 2)
    monkeypatch.setattr(segments, "_SITES", {torch.float64: 2})
    v, z, upper, lower, diagonal = (x.to(device) for x in _inputs(1, 13))
    chain, grad = Chain(v + diagonal, upper * lower, z), torch.randn_like(v, dtype=torch.complex128)
    torch.testing.assert_close(fused.bk_core(chain), reference.bk_core(chain))
    founds, truths = fused.bk_core_backward(grad, chain), reference.bk_core_backward(grad, chain)
    for found, truth in zip(founds, truths, strict=True):
        torch.testing.assert_close(found, truth)


def test_gradients_of_one_number_for_all(device: torch.device) -> None:
    v = _potential(3, 6).to(device).requires_grad_()
    hopping = torch.tensor(-0.7, dtype=torch.float64, device=device, requires_grad=True)
    z = torch.tensor(0.3 + 0.6j, dtype=torch.complex128, device=device, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v, h, z: bk_core(v, z=z, upper=h, diagonal=h), (v, hopping, z))


@pytest.mark.parametrize(
    ("form", "n"), [*((form, n) for form in FAST for n in (1, 2, 100, 700)), *((form, 40) for form in SLOW)]
)
def test_gradients_agree_with_autograd_through_dense_inverses(
    form: str, n: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERNELS_FORM", form)
    for dtype in (torch.float64, torch.float32):
        given = [x.to(device).requires_grad_() for x in _inputs(2, n, dtype)]
        wide = [x.detach().to(torch.complex128 if x.is_complex() else torch.float64).requires_grad_() for x in given]
        grad = torch.randn(2, n, dtype=torch.complex128, generator=torch.Generator().manual_seed(0)).to(device)
        _of_all(*given).backward(grad.to(dtype.to_complex()))
        v, z, upper, lower, diagonal = wide
        _truth(v + diagonal - 2, z, upper, lower).backward(grad)
        for found, truth in zip(given, wide, strict=True):
            assert found.grad is not None
            assert truth.grad is not None
            scale = truth.grad.abs().max() if truth.numel() else 1
            assert ((found.grad - truth.grad).abs() <= 500 * torch.finfo(dtype).eps * scale).all()


def test_every_site_counts_in_the_gradient() -> None:
    """dG[i, i] / dv[j] = -G[i, j] G[j, i], also where j is not i."""
    v = _potential(1, 5).requires_grad_()
    (slope,) = torch.autograd.grad(bk_core(v, z=0.2 + 0.3j)[0, 1].real, v)
    green = torch.linalg.inv(_dense(v.detach(), 0.2 + 0.3j, -1, -1))[0]
    torch.testing.assert_close(slope[0], -(green[1] * green[:, 1]).real)


def test_the_blended_surrogate_is_what_it_says_and_far_from_the_gradient() -> None:
    """Its values are G's. Its slope has the diagonal alone: here 0.73 of the gradient's length away from it at blend 0,
    2.8 lengths at 0.5 and 5.4 at 1, at cosines of 0.68, 0.30 and 0.24."""
    v = _potential(4, 64).requires_grad_()
    z, weight = 1.0 + 0.3j, torch.randn(4, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    slopes = {}
    for blend in (None, 0.0, 0.5, 1.0):
        found = bk_core(v, z=z, blend=blend)
        torch.testing.assert_close(found, bk_core(v, z=z))
        (slopes[blend],) = torch.autograd.grad((found.real * weight).sum(), v)
    green = bk_core(v.detach(), z=z)
    torch.testing.assert_close(slopes[0.0], (-(green**2)).real * weight)
    torch.testing.assert_close(slopes[1.0], (-1 / green**2).real * weight)
    torch.testing.assert_close(slopes[0.5], (slopes[0.0] + slopes[1.0]) / 2)
    away = {blend: (slope - slopes[None]).norm() / slopes[None].norm() for blend, slope in slopes.items()}
    cosine = {b: torch.cosine_similarity(slope.flatten(), slopes[None].flatten(), 0) for b, slope in slopes.items()}
    assert [round(away[b].item(), 1) for b in (0.0, 0.5, 1.0)] == [0.7, 2.8, 5.4]
    assert [round(cosine[b].item(), 1) for b in (0.0, 0.5, 1.0)] == [0.7, 0.3, 0.2]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity_stay_in_their_row(
    form: str, bad: float, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERNELS_FORM", form)
    v = _potential(3, 40, dtype=torch.float32).to(device)
    v[1, 17] = bad
    v.requires_grad_()
    found = bk_core(v, z=1j)
    found.real.sum().backward()
    assert v.grad is not None
    for values in (found, v.grad):
        assert values[1].isnan().all()
        assert values[0::2].isfinite().all()


@pytest.mark.parametrize("form", FAST)
def test_strides_and_nothing_at_all(form: str, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERNELS_FORM", form)
    v = _potential(8, 100).to(device)
    torch.testing.assert_close(bk_core(v[::2, ::3], z=1j), bk_core(v[::2, ::3].contiguous(), z=1j))
    torch.testing.assert_close(bk_core(v.T, z=1j), bk_core(v.T.contiguous(), z=1j))
    nothing = v[:0].requires_grad_()
    z = torch.tensor(1j, dtype=torch.complex128, device=device, requires_grad=True)
    found = bk_core(nothing, z=z, upper=nothing[:, 1:], diagonal=nothing)
    assert found.shape == (0, 100)
    found.sum().abs().backward()
    assert z.grad == 0
    strided = v.clone().requires_grad_()
    bk_core(strided, z=1j).sum().real.backward()  # a gradient of strides 0
    expected = v.clone().requires_grad_()
    bk_core(expected, z=1j).backward(torch.ones(8, 100, dtype=torch.complex128, device=device))
    torch.testing.assert_close(strided.grad, expected.grad)


def test_rows_of_any_number_are_taken_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = Chain(_potential(7, 50), 0.9, 0.1 + 0.5j)
    grad = torch.randn(7, 50, dtype=torch.complex128, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(chunked, "_SITES_AT_ONCE", 100)
    monkeypatch.setattr(chunked, "_LANES", 10)
    monkeypatch.setattr(chunked, "_FEWEST_SITES", 3)
    torch.testing.assert_close(chunked.bk_core(chain), reference.bk_core(chain))
    for found, expected in zip(
        chunked.bk_core_backward(grad, chain), reference.bk_core_backward(grad, chain), strict=True
    ):
        torch.testing.assert_close(found, expected)


def test_torch_accepts_the_operator() -> None:
    v, z, upper, lower, _ = _inputs(2, 5)
    for couplings, energies in ((None, None), ((upper * lower).requires_grad_(), z.requires_grad_())):
        torch.library.opcheck(operators.bk_core.whole, (v.requires_grad_(), couplings, energies, 1.0, 0.1, 0.5))


class _Features(torch.nn.Module):
    def forward(self, v: torch.Tensor) -> torch.Tensor:
        return bk_features(v, z=0.5 + 0.5j)


def test_a_model_is_compiled_whole_and_exported_without_the_operator() -> None:
    v = _potential(2, 33, dtype=torch.float32)
    expected = torch.view_as_real(bk_core(v, z=0.5 + 0.5j))
    whole = torch.compile(_Features(), backend="eager", fullgraph=True)
    torch.testing.assert_close(whole(v), expected)
    exported = torch.export.export(_Features(), (v,))
    assert not any("kernels" in str(node.target) for node in exported.graph.nodes)
    torch.testing.assert_close(exported.module()(v), expected)


def test_spelled_out_in_real_arithmetic_it_is_the_same() -> None:
    v, z, upper, lower, diagonal = _inputs(3, 70)

    class Everything(torch.nn.Module):
        def forward(self, v: torch.Tensor) -> torch.Tensor:
            return bk_core(v, z=z, upper=upper, lower=lower, diagonal=diagonal)

    found = torch.export.export(Everything(), (v,)).module()(v)
    torch.testing.assert_close(found, bk_core(v, z=z, upper=upper, lower=lower, diagonal=diagonal))
    assert bk_features(v[:, :1], z=1j).shape == (3, 1, 2)


@pytest.mark.parametrize("n", [1, 2, 1024, 4096])
def test_real_arithmetic_answers_the_same_however_many_rounds_it_takes(n: int) -> None:
    v = _potential(2, n, 3.0, torch.float32)
    found = torch.complex(*doubling.bk_core(v, 1.0, 0.5 - 2.0, 0.5))
    assert _error(found, bk_core(v.double(), z=0.5 + 0.5j)) <= 1e-4


@pytest.mark.parametrize("n", [6])
def test_onnxruntime_answers_the_same(n: int) -> None:
    import onnxruntime

    v = _potential(2, n, 3.0, torch.float32)
    program = torch.onnx.export(_Features(), (v,), dynamo=True, verbose=False)
    assert program is not None
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    found = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: v.numpy()})[0])
    truth = bk_core(v.double(), z=0.5 + 0.5j)
    assert _error(torch.view_as_complex(found), truth) <= 1e-4


V, DOUBLE = torch.ones(2, 3), torch.ones(2, 3, dtype=torch.float64)


@pytest.mark.parametrize(
    ("v", "options", "error", "words"),
    [
        (V, {"z": 1.0}, ValueError, "Im z must be positive, got z = 1.0: the resolvent .* real axis.*eigenvalues"),
        (V, {"z": 1 - 1j}, ValueError, "Im z must be positive"),
        (V, {"z": complex(0, math.nan)}, ValueError, "Im z must be positive"),
        (V, {"z": torch.tensor([1j, 0j])}, ValueError, "Im z must be positive, got 0.0: "),
        (V, {"z": torch.tensor([1.0, 1.0])}, TypeError, "z must be torch.complex64 where v is torch.float32"),
        (V, {"z": torch.full((3,), 1j)}, ValueError, r"one number or \(2,\), one a row of v, got \(3,\)"),
        (V, {"z": torch.tensor(1j, device="meta")}, ValueError, "z is on meta and v on cpu"),
        (V[0], {"z": 1j}, ValueError, r"v must be \(batch, n>=1\), got \(3,\)"),
        (V[:, :0], {"z": 1j}, ValueError, "n>=1"),
        (torch.empty(1, 2**31, device="meta"), {"z": 1j}, ValueError, r"fewer than 2\^31 sites"),
        (V.half(), {"z": 1j}, TypeError, "float32 or float64, got torch.float16"),
        (V.int(), {"z": 1j}, TypeError, "float32 or float64"),
        (V, {"z": 1j, "upper": V}, ValueError, r"upper must be one number, \(2,\) or \(2, 2\), got \(2, 3\)"),
        (V, {"z": 1j, "lower": DOUBLE[:, :2]}, TypeError, "lower must be torch.float32 as v is, got torch.float64"),
        (V, {"z": 1j, "diagonal": V[:, :2]}, ValueError, r"diagonal must be .* \(3,\) or \(2, 3\)"),
        (V, {"z": 1j, "diagonal": V.to("meta")}, ValueError, "diagonal is on meta and v on cpu"),
        (V, {"z": 1j, "upper": 1j}, TypeError, "upper must be real"),
        (V, {"z": 1j, "upper": 1.0, "lower": -1.0}, ValueError, "upper . lower is negative"),
    ],
)
def test_what_has_no_resolvent_is_refused(
    v: torch.Tensor, options: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        bk_core(v, **options)  # type: ignore[arg-type]


def test_an_energy_that_is_not_looked_at_makes_its_row_nan() -> None:
    v, z = _potential(2, 9), torch.tensor([1j, 1.0], dtype=torch.complex128)
    for found in (reference.bk_core(Chain(v, 1.0, z)), chunked.bk_core(Chain(v, 1.0, z))):
        assert found[0].isfinite().all()
        assert found[1].isnan().all()


def test_memory_is_asked_for_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10**7)
    with pytest.raises(MemoryError, match=r"bk_core needs 0\.\d\d GB on cpu and 0\.01 GB are free"):
        bk_core(torch.zeros(1, 9_000_000), z=1j)


def test_forms_say_why_they_do_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    v = _potential(2, 9)
    monkeypatch.setenv("KERNELS_FORM", "bk_core=cuda")
    with pytest.raises(KernelUnavailable, match="CUDA C\\+\\+ compiles for NVIDIA's GPUs, not for cpu"):
        bk_core(v, z=1j)
    gpu = Call(Machine("cuda", "GPU", (7, 5), 64 * 1024, True), torch.float32, {"batch": 2, "n": 9})
    assert operators.FORWARD.choose(gpu).form.name == "cuda"
    monkeypatch.delattr(torch.cuda, "_compile_kernel")
    with pytest.raises(KernelUnavailable, match=r"_compile_kernel"):
        operators.FORWARD.choose(gpu)
