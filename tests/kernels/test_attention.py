"""Attention: float64's truth in values, gradients and statistics, in every form, whatever is masked or extreme."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from kernels.attention import attention
from tests.kernels.attention_cases import Sizes, by_reference, inputs_of, options_of

pytestmark = pytest.mark.slow

FORMS = ["torch", "triton"]
DTYPES = [torch.float32, torch.float16, *([torch.bfloat16] if torch.cuda.is_available() else [])]
"""Triton's interpreter takes bfloat16 for integers; the form in plain torch is held to it below."""

CASES: list[tuple[Sizes, dict[str, Any]]] = [
    (Sizes(), {}),
    (Sizes(), {"causal": True}),
    (Sizes(b=2, h=4, m=70, n=141, d=32), {"causal": True}),
    (Sizes(m=141, n=70, dv=32), {"causal": True}),
    (Sizes(m=40, n=300, d=24), {}),
    (Sizes(h=2, shared=1, m=300, n=33), {}),
    (Sizes(b=2, m=130, n=129), {"padded": True}),
    (Sizes(b=2, m=65, n=200), {"padded": True, "causal": True}),
    (Sizes(m=290, n=257), {"window": 40}),
    (Sizes(m=200, n=257), {"window": 17, "causal": True}),
    (Sizes(m=300, n=290), {"tiles": [(0, 1), (2, 0), (2, 2)]}),
    (Sizes(m=129, n=257), {"tiles": [(0, 0), (1, 2)], "causal": True, "padded": True, "window": 100}),
    (Sizes(m=1, n=1), {}),
    (Sizes(m=2, n=127, d=64, dv=64), {"scale": 0.5}),
]
CASES_FOR_GPU: list[tuple[Sizes, dict[str, Any]]] = [
    (Sizes(b=2, h=4, m=70, n=141, d=32), {}),
    (Sizes(m=200, n=300, d=64, dv=32), {}),
    (Sizes(m=200, n=300, d=64, dv=32), {"causal": True}),
    (Sizes(m=200, n=300, d=24, dv=80), {}),
    (Sizes(m=200, n=300, d=24, dv=40), {"causal": True}),
    (Sizes(m=100, n=200, d=256, dv=16), {}),
]
"""Keys and values of other widths, which go right in the interpreter in any tiles."""
HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9
CASES_FOR_HOPPER: list[tuple[Sizes, dict[str, Any]]] = [
    (Sizes(d=128, dv=128), {}),
    (Sizes(b=2, h=4, m=300, n=700, d=128, dv=128), {}),
    (Sizes(m=1024, n=1024, d=128, dv=128), {"causal": True}),
    (Sizes(h=2, shared=1, m=700, n=300, d=128, dv=96), {"causal": True}),
    (Sizes(m=513, n=2000, d=72, dv=128), {"causal": True}),
    (Sizes(m=1, n=1, d=128, dv=128), {"scale": 3.0}),
]
"""Its form takes none of the others."""


def _everything(
    compute: Any, inputs: list[torch.Tensor], dtype: torch.dtype, dout: torch.Tensor, options: dict[str, Any]
) -> dict[str, torch.Tensor]:
    """Out, lse, statistics, and gradients of a sum that both out and lse enter."""
    leaves = [x.to(dtype).detach().requires_grad_() for x in inputs]
    out, lse, stats = compute(*leaves, **options)
    lse = torch.where(lse == -torch.inf, 0.0, lse)
    weights = torch.linspace(-1, 1, lse.numel(), device=lse.device, dtype=lse.dtype).reshape(lse.shape)
    gradients = torch.autograd.grad([out, lse], leaves, [dout.to(dtype), weights])
    found = {"out": out, "lse": lse, **stats._asdict(), **dict(zip(("dq", "dk", "dv"), gradients, strict=True))}
    return {name: value.detach() for name, value in found.items()}


def _largest_terms(
    sizes: Sizes, inputs: list[torch.Tensor], dout: torch.Tensor, options: dict[str, Any]
) -> dict[str, float]:
    """What is summed where the sum itself may be small: differences of dout·v, and of squared positions."""
    q, k, v, d = (torch.linalg.vector_norm(x.double(), dim=-1).max().item() for x in (*inputs, dout))
    ds = d * v * options.get("scale", sizes.d**-0.5)
    return {"dq": ds * k, "dk": ds * q, "position_var": _square(sizes, inputs[0].dtype)}


def _terms_of_a_score(inputs: list[torch.Tensor], options: dict[str, Any]) -> float:
    """The most that the magnitudes of a score's terms sum to."""
    q, k = inputs[0].double().abs(), inputs[1].double().abs()
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    return (q @ k.mT).max().item() * options.get("scale", q.shape[-1] ** -0.5)


def _square(sizes: Sizes, dtype: torch.dtype) -> float:
    """Squares of places are whole in float32; with rounded weights the variance is as good as they are."""
    return float(max(sizes.m, sizes.n)) ** 2 if dtype == torch.float32 else 0.0


@pytest.mark.parametrize(
    ("form", "dtype", "sizes", "options"),
    [
        (form, dtype, *case)
        for form in FORMS
        for dtype in DTYPES
        for case in (CASES if torch.cuda.is_available() or dtype == torch.float32 else CASES[::3])
    ]
    + [("triton", dtype, *case) for dtype in DTYPES for case in CASES_FOR_GPU if torch.cuda.is_available()]
    + [("cuda", dtype, *case) for dtype in DTYPES[1:] for case in CASES_FOR_HOPPER if HOPPER],
)
def test_is_as_close_to_the_truth_as_plain_torch(
    sizes: Sizes, options: dict[str, Any], dtype: torch.dtype, form: str, device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Error at most twice that of the whole matrix in the same dtype, and one rounding of the largest term."""
    monkeypatch.setenv("KERNELS_FORM", form)
    inputs, given = inputs_of(sizes, dtype, device), options_of(sizes, options, device)
    dout = inputs_of(Sizes(sizes.b, sizes.h, sizes.h, sizes.m, sizes.m, sizes.dv), dtype, device)[0]
    truth = _everything(by_reference, inputs, torch.float64, dout, given)
    plain = _everything(by_reference, inputs, dtype, dout, given)
    found = _everything(attention, inputs, dtype, dout, {**given, "return_stats": True})
    largest = _largest_terms(sizes, inputs, dout, given)
    # scores whose terms are rounded once move each p, and so the largest and 1/Σp², by eps of those terms
    for name in ("max_prob", "effective_support"):
        largest[name] = _terms_of_a_score(inputs, given) * truth[name].max().item()
    for name, true in truth.items():
        assert found[name].dtype == plain[name].dtype, name
        rounded = dtype if name in ("span", "position_var") else found[name].dtype  # places times rounded weights
        eps = torch.finfo(rounded).eps * max(1.0, true.abs().max().item(), largest.get(name, 0.0))
        allowed = 2 * (plain[name].double() - true).abs().max().item() + eps
        error = (found[name].double() - true).abs().max().item()
        assert error <= allowed, f"{name}: {error:.2e}, allowed {allowed:.2e}"


def test_plain_torch_takes_bfloat16_and_sums_in_float32(device: torch.device) -> None:
    sizes = Sizes(m=100, n=520)
    inputs, dout = inputs_of(sizes, torch.bfloat16, device), inputs_of(Sizes(m=100, n=100), torch.bfloat16, device)[0]
    truth = _everything(by_reference, inputs, torch.float64, dout, {})
    plain = _everything(by_reference, inputs, torch.bfloat16, dout, {})
    found = _everything(attention, inputs, torch.bfloat16, dout, {"return_stats": True})
    for name, true in truth.items():
        allowed = 2 * (plain[name].double() - true).abs().max() + torch.finfo(found[name].dtype).eps * true.abs().max()
        assert (found[name].double() - true).abs().max() <= allowed, name


@pytest.mark.parametrize("form", FORMS)
def test_logits_may_be_huge_or_all_equal(form: str, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERNELS_FORM", form)
    q, k, v = inputs_of(Sizes(m=70, n=70), torch.float32, device)
    _, lse, stats = attention(q * 1e4, k, v, return_stats=True)
    assert stats is not None
    assert lse.isfinite().all()
    assert all(found.isfinite().all() for found in stats)
    torch.testing.assert_close(stats.max_prob, torch.ones_like(stats.max_prob), atol=0.05, rtol=0)
    _, _, stats = attention(q * 0, k, v, return_stats=True)
    assert stats is not None
    torch.testing.assert_close(stats.entropy, torch.full_like(stats.entropy, np.log(70)))
    torch.testing.assert_close(stats.effective_support, torch.full_like(stats.effective_support, 70.0))
    torch.testing.assert_close(stats.position_var, torch.full_like(stats.position_var, (70**2 - 1) / 12))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("growth", [0.02, 2.0])
def test_logits_may_grow_from_tile_to_tile(
    growth: float, form: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a little, which the running maximum need not follow; and by so much that float32 would overflow without it."""
    monkeypatch.setenv("KERNELS_FORM", form)
    sizes = Sizes(m=5, n=260)
    q, k, v = inputs_of(sizes, torch.float32, device)
    q[..., 0], k[..., 0] = 4.0, torch.arange(260, device=device) * growth  # a scale of 1/4 leaves that
    found, truth = attention(q, k, v, return_stats=True), by_reference(*(x.double() for x in (q, k, v)))
    assert found.stats is not None
    assert truth.stats is not None
    rounding = 16 * torch.finfo(torch.float32).eps * truth.lse.abs().max().item()  # of logits, in products of 16 terms
    torch.testing.assert_close(found.lse.double(), truth.lse, rtol=0, atol=rounding)
    torch.testing.assert_close(found.out.double(), truth.out, rtol=0, atol=8 * rounding)
    for ours, true in zip(found.stats[:2] + found.stats[3:], truth.stats[:2] + truth.stats[3:], strict=True):
        torch.testing.assert_close(ours.double(), true, rtol=4 * rounding, atol=8 * rounding)


@pytest.mark.parametrize("form", FORMS)
def test_queries_that_see_nothing_are_zero_and_do_not_count(
    form: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With M > N and causal the first M - N queries stand before the first key."""
    monkeypatch.setenv("KERNELS_FORM", form)
    q, k, v = (x.requires_grad_() for x in inputs_of(Sizes(b=2, m=90, n=30), torch.float32, device))
    padding = torch.zeros(2, 30, dtype=torch.bool, device=device)
    padding[1] = True
    out, lse, stats = attention(q, k, v, causal=True, key_padding=padding, return_stats=True)
    assert stats is not None
    assert (out[0, :, :60] == 0).all()
    assert (out[1] == 0).all()
    assert (lse[0, :, :60] == -torch.inf).all()
    assert lse[0, :, 60:].isfinite().all()
    seeing = attention(q[:1, :, 60:], k[:1], v[:1], causal=True, return_stats=True).stats
    assert seeing is not None
    for whole, part in zip(stats, seeing, strict=True):
        torch.testing.assert_close(whole[:1], part)
        assert (whole[1] == 0).all()
        assert not whole.requires_grad
    out.sum().backward()
    assert q.grad is not None
    assert (q.grad[0, :, :60] == 0).all()
    assert (q.grad[1] == 0).all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_goes_on(
    bad: float, form: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setenv("KERNELS_FORM", form)
    for index in range(3):
        inputs = inputs_of(Sizes(m=40, n=50), torch.float32, device)
        inputs[index][0, 1, 7, 3] = bad
        out, _, stats = attention(*inputs, return_stats=True)
        assert stats is not None
        assert out[0, 0].isfinite().all()
        assert not out[0, 1, 7].isfinite().all()
        if index < 2:
            assert stats.entropy[0, 0].isfinite()
            assert stats.entropy[0, 1].isnan()
            assert stats.max_prob[0, 1].isnan()


@pytest.mark.parametrize("form", FORMS)
def test_strides_and_nothing_at_all(form: str, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERNELS_FORM", form)
    q, k, v = inputs_of(Sizes(b=2, m=40, n=50), torch.float32, device)
    expected = attention(q, k, v).out
    turned = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    backwards = [x.mT.contiguous().mT for x in (q, k, v)]
    every_other = [torch.stack([x, x], 3).flatten(2, 3)[:, :, ::2] for x in (q, k, v)]
    for others in (turned, backwards, every_other):
        torch.testing.assert_close(attention(*others).out, expected)
    assert attention(q[:, :, :0], k, v, return_stats=True).out.shape == (2, 2, 0, 16)
    assert attention(q[:0], k[:0], v[:0], return_stats=True).lse.shape == (0, 2, 40)
    alone = attention(q.requires_grad_(), k[:, :, :0], v[:, :, :0], return_stats=True)
    assert (alone.out == 0).all()
    assert (alone.lse == -torch.inf).all()
    alone.out.sum().backward()
    assert q.grad is not None
    assert (q.grad == 0).all()


@pytest.mark.parametrize("form", FORMS)
def test_twice_the_same_call_gives_the_same_bits(
    form: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setenv("KERNELS_FORM", form)
    sizes = Sizes(h=4, m=130, n=140)
    inputs, dout = inputs_of(sizes, torch.float32, device), inputs_of(Sizes(h=4, m=130), torch.float32, device)[0]
    options = {"causal": True, "return_stats": True}
    first, second = (_everything(attention, inputs, torch.float32, dout, options) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_agrees_with_the_attention_of_torch(device: torch.device) -> None:
    q, k, v = inputs_of(Sizes(b=2, h=4, shared=4, m=90, n=90), torch.float32, device)
    for causal in (False, True):
        expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
        torch.testing.assert_close(attention(q, k, v, causal=causal).out, expected)


@pytest.mark.parametrize(
    ("sizes", "options"),
    [
        (Sizes(m=3, n=4), {"causal": True}),
        (Sizes(h=2, shared=1, m=5, n=3), {"causal": True}),
        (Sizes(b=2, m=3, n=5), {"padded": True, "window": 2}),
    ],
)
def test_gradients_are_those_of_finite_differences(sizes: Sizes, options: dict[str, Any]) -> None:
    inputs = [x.requires_grad_() for x in inputs_of(sizes, torch.float64, torch.device("cpu"))]
    given = options_of(sizes, options, torch.device("cpu"))

    def out_and_lse(*qkv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        out, lse, _ = attention(*qkv, **given)
        return out, torch.where(lse == -torch.inf, 0.0, lse)

    assert torch.autograd.gradcheck(out_and_lse, inputs)
