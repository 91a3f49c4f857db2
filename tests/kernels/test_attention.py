"""Attention: float64's truth in values, gradients and statistics, in every form; what is masked; what is refused."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
import torch

from kernels import KernelUnavailable, registry
from kernels.attention import TILE, AttentionOut, AttentionStats, attention, operators, reference, workspace_bytes
from kernels.attention.operators import ATTENTION
from kernels.attention.tiles import tile_map
from kernels.dispatch import Call
from kernels.machine import Machine

pytestmark = pytest.mark.slow

FORMS = ["torch", "triton"]
DTYPES = [torch.float32, torch.float16, *([torch.bfloat16] if torch.cuda.is_available() else [])]
"""Triton's interpreter takes bfloat16 for integers; the form in plain torch is held to it below."""


@dataclass(frozen=True)
class Sizes:
    b: int = 1
    h: int = 2
    shared: int = 2
    m: int = 150
    n: int = 150
    d: int = 16
    dv: int = 16


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


def _inputs(sizes: Sizes, dtype: torch.dtype, device: torch.device) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(sizes.m * sizes.n)
    q = torch.randn(sizes.b, sizes.h, sizes.m, sizes.d, dtype=torch.float64, generator=rng)
    k = torch.randn(sizes.b, sizes.shared, sizes.n, sizes.d, dtype=torch.float64, generator=rng)
    v = torch.randn(sizes.b, sizes.shared, sizes.n, sizes.dv, dtype=torch.float64, generator=rng)
    return [x.to(device, dtype) for x in (q, k, v)]


def _options(sizes: Sizes, options: dict[str, Any], device: torch.device) -> dict[str, Any]:
    found = {name: value for name, value in options.items() if name != "padded"}
    if options.get("padded"):
        padding = torch.zeros(sizes.b, sizes.n, dtype=torch.bool, device=device)
        padding[0, sizes.n // 2 :], padding[-1, : sizes.n // 3] = True, True
        found["key_padding"] = padding
    return found


def _reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> AttentionOut:
    """The public function with the reference in it."""
    tiles = options.get("tiles")
    out, lse, stats = reference.attention(
        q, k, v, options.get("key_padding"),
        None if tiles is None else tile_map(tiles, q.shape[2], k.shape[2], q.device),
        options.get("causal", False), options.get("window"), options.get("scale", q.shape[3] ** -0.5), True,
    )  # fmt: skip
    return AttentionOut(out, lse, AttentionStats(*stats))


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
    inputs, given = _inputs(sizes, dtype, device), _options(sizes, options, device)
    dout = _inputs(Sizes(sizes.b, sizes.h, sizes.h, sizes.m, sizes.m, sizes.dv), dtype, device)[0]
    truth = _everything(_reference, inputs, torch.float64, dout, given)
    plain = _everything(_reference, inputs, dtype, dout, given)
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
    inputs, dout = _inputs(sizes, torch.bfloat16, device), _inputs(Sizes(m=100, n=100), torch.bfloat16, device)[0]
    truth = _everything(_reference, inputs, torch.float64, dout, {})
    plain = _everything(_reference, inputs, torch.bfloat16, dout, {})
    found = _everything(attention, inputs, torch.bfloat16, dout, {"return_stats": True})
    for name, true in truth.items():
        allowed = 2 * (plain[name].double() - true).abs().max() + torch.finfo(found[name].dtype).eps * true.abs().max()
        assert (found[name].double() - true).abs().max() <= allowed, name


@pytest.mark.parametrize("form", FORMS)
def test_logits_may_be_huge_or_all_equal(form: str, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERNELS_FORM", form)
    q, k, v = _inputs(Sizes(m=70, n=70), torch.float32, device)
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
    q, k, v = _inputs(sizes, torch.float32, device)
    q[..., 0], k[..., 0] = 4.0, torch.arange(260, device=device) * growth  # a scale of 1/4 leaves that
    found, truth = attention(q, k, v, return_stats=True), _reference(*(x.double() for x in (q, k, v)))
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
    q, k, v = (x.requires_grad_() for x in _inputs(Sizes(b=2, m=90, n=30), torch.float32, device))
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
        inputs = _inputs(Sizes(m=40, n=50), torch.float32, device)
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
    q, k, v = _inputs(Sizes(b=2, m=40, n=50), torch.float32, device)
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
    inputs, dout = _inputs(sizes, torch.float32, device), _inputs(Sizes(h=4, m=130), torch.float32, device)[0]
    options = {"causal": True, "return_stats": True}
    first, second = (_everything(attention, inputs, torch.float32, dout, options) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_without_statistics_the_kernel_of_torch_runs_on_the_cpu(dtype: torch.dtype, causal: bool) -> None:
    inputs = _inputs(Sizes(b=2, m=130, n=130, d=24, dv=24), dtype, torch.device("cpu"))
    assert registry.choose("attention", *inputs, causal=causal).form.name == "library"
    found, truth = attention(*inputs, causal=causal), _reference(*(x.double() for x in inputs), causal=causal)
    plain = _reference(*inputs, causal=causal)
    largest = truth.lse.abs().max() * inputs[2].double().abs().max()  # a logit's rounding, as the values show it
    for ours, true, other in zip(found[:2], truth[:2], plain[:2], strict=True):
        allowed = 2 * (other.double() - true).abs().max() + torch.finfo(ours.dtype).eps * largest
        assert (ours.double() - true).abs().max() <= allowed
        assert ours.is_contiguous()


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"statistics": 1}, "no statistics"),
        ({"masks": 1}, "as a matrix"),
        ({"causal": 1, "M": 4}, "at their beginning"),
        ({"K": 1}, "as many heads"),
        ({"dv": 32}, "one width"),
        ({"N": 0}, "divides by sizes"),
    ],
)
def test_the_kernel_of_torch_gets_only_what_it_takes(changed: dict[str, int], why: str) -> None:
    call = Call(Machine("cpu"), torch.float32, {**_SIZES, "d": 16, "dv": 16, "statistics": 0, **changed})
    choice = ATTENTION.choose(call)
    assert choice.form.name == "torch"
    assert why in choice.refused["library"]


def test_agrees_with_the_attention_of_torch(device: torch.device) -> None:
    q, k, v = _inputs(Sizes(b=2, h=4, shared=4, m=90, n=90), torch.float32, device)
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
    inputs = [x.requires_grad_() for x in _inputs(sizes, torch.float64, torch.device("cpu"))]
    given = _options(sizes, options, torch.device("cpu"))

    def out_and_lse(*qkv: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        out, lse, _ = attention(*qkv, **given)
        return out, torch.where(lse == -torch.inf, 0.0, lse)

    assert torch.autograd.gradcheck(out_and_lse, inputs)


def test_torch_accepts_the_operator() -> None:
    q, k, v = (x.requires_grad_() for x in _inputs(Sizes(m=4, n=5), torch.float64, torch.device("cpu")))
    torch.library.opcheck(operators.attention.whole, (q, k, v, None, None, True, None, 0.25, True))
    torch.library.opcheck(operators.attention.whole, (q, k, v, None, None, False, 2, 0.25, False))


def test_a_map_of_tiles_is_a_list_of_tiles(device: torch.device) -> None:
    q, k, v = _inputs(Sizes(m=TILE + 2, n=2 * TILE + 2), torch.float32, device)
    pairs = [(0, 2), (1, 0), (0, 2)]
    wanted = torch.tensor([[False, False, True], [True, False, False]])
    assert torch.equal(tile_map(pairs, TILE + 2, 2 * TILE + 2, torch.device("cpu")), wanted)
    by_map = attention(q, k, v, tiles=wanted).out
    assert torch.equal(by_map, attention(q, k, v, tiles=pairs).out)
    assert torch.equal(by_map, attention(q, k, v, tiles=torch.tensor(pairs)).out)
    assert (attention(q, k, v, tiles=[]).out == 0).all()


class _Attending(torch.nn.Module):
    def forward(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, padding: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of all keys for the output, of a tile of them for the statistics."""
        out = attention(q, k, v, causal=True, key_padding=padding).out
        stats = attention(q, k, v, window=3, tiles=[(0, 0)], return_stats=True).stats
        assert stats is not None
        return out, stats.entropy, stats.span


def test_is_exported_in_plain_operators_and_runs_in_onnxruntime(tmp_path: Path) -> None:
    sizes = Sizes(b=2, h=4, m=6, n=9)
    inputs = _inputs(sizes, torch.float32, torch.device("cpu"))
    inputs.append(_options(sizes, {"padded": True}, torch.device("cpu"))["key_padding"])
    expected = _Attending()(*inputs)
    exported = torch.export.export(_Attending(), tuple(inputs))
    assert not any("kernels" in str(node.target) for node in exported.graph.nodes)
    program = torch.onnx.export(exported, (), dynamo=True, opset_version=18, verbose=False)
    assert program is not None
    program.save(tmp_path / "attention.onnx")
    session = ort.InferenceSession(tmp_path / "attention.onnx")
    found = session.run(None, {i.name: x.numpy() for i, x in zip(session.get_inputs(), inputs, strict=True)})
    for ours, theirs in zip(expected, found, strict=True):
        np.testing.assert_allclose(theirs, ours.numpy(), atol=1e-5)


def test_is_compiled_whole() -> None:
    inputs = _inputs(Sizes(m=6, n=9), torch.float32, torch.device("cpu"))
    padding = torch.zeros(1, 9, dtype=torch.bool)
    whole = torch.compile(_Attending(), backend="eager", fullgraph=True)
    torch.testing.assert_close(whole(*inputs, padding), _Attending()(*inputs, padding))


_Q, _K, _V = torch.zeros(2, 4, 5, 16), torch.zeros(2, 2, 7, 16), torch.zeros(2, 2, 7, 32)


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        ({"q": _Q[0]}, ValueError, r"four dimensions .*\(4, 5, 16\)"),
        ({"q": _Q[:1]}, ValueError, "do not match"),
        ({"k": _K[:, :, :6]}, ValueError, "do not match"),
        ({"q": torch.zeros(2, 4, 5, 24)}, ValueError, "do not match"),
        ({"q": torch.zeros(2, 3, 5, 16)}, ValueError, "a multiple of those of k and v, got 3 and 2"),
        ({"v": torch.zeros(2, 2, 7, 8)}, ValueError, "from 16 to 256, got 8"),
        ({"q": torch.zeros(2, 4, 5, 264), "k": torch.zeros(2, 2, 7, 264)}, ValueError, "from 16 to 256, got 264"),
        ({"q": _Q.double()}, ValueError, "one dtype on one device, got q torch.float64"),
        ({"q": _Q.int(), "k": _K.int(), "v": _V.int()}, TypeError, "got torch.int32"),
        ({"key_padding": torch.zeros(2, 7)}, TypeError, "True where nobody attends"),
        ({"key_padding": torch.zeros(2, 5, dtype=torch.bool)}, ValueError, r"\(B, N\) = \(2, 7\)"),
        ({"window": -1}, ValueError, "0 or more, got -1"),
        ({"scale": 0.0}, ValueError, "positive and finite, got 0"),
        ({"scale": float("nan")}, ValueError, "positive and finite"),
        ({"scale": -0.5}, ValueError, "positive and finite, got -0.5"),
        ({"tiles": torch.ones(2, 1, dtype=torch.bool)}, ValueError, r"must be \(1, 1\) .*got \(2, 1\)"),
        ({"tiles": [(0, 1)]}, ValueError, r"within \(1, 1\)"),
        ({"tiles": [(0, -1)]}, ValueError, r"within \(1, 1\)"),
        ({"tiles": [(0.0, 0.0)]}, TypeError, "pairs of integers"),
        ({"tiles": [0, 1]}, TypeError, "pairs of integers"),
    ],
)
def test_what_cannot_attend_is_refused(changed: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        attention(**{"q": _Q, "k": _K, "v": _V, **changed})


def test_memory_that_is_not_there_is_missed_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kernels.memory.free_bytes", lambda device: 2**20)
    long = torch.zeros(1, 8, 2**16, 64)
    with pytest.raises(MemoryError, match=r"attention needs 0\.\d+ GB on cpu"):
        attention(long, long[:, :, :1], long[:, :, :1], return_stats=True)


def test_memory_grows_with_queries_and_not_with_keys() -> None:
    few, many = (torch.empty(1, 16, n, 64, device="meta").expand(4, -1, -1, -1) for n in (4096, 65536))
    q = torch.zeros(1)
    for return_stats in (False, True):
        asked = [_workspace(few, keys, return_stats) for keys in (few, many)]
        assert asked[0] == asked[1]
        assert asked[0] < 2 * 4 * 16 * 4096 * (64 + 8) * 4
    assert q.numel() == 1
    without, with_them = (_workspace(few, many, return_stats, window=9) for return_stats in (False, True))
    assert with_them - without >= 5 * 4 * 4 * 16 * 4096  # five float32 a query


def _workspace(q: torch.Tensor, k: torch.Tensor, return_stats: bool, **options: Any) -> int:
    on_cpu = [torch.zeros((), dtype=torch.float32).expand(x.shape) for x in (q, k, k)]
    return workspace_bytes(*on_cpu, return_stats=return_stats, **options)


_SIZES = {"B": 1, "H": 2, "K": 2, "M": 5, "N": 5, "causal": 0, "masks": 0, "statistics": 1}
H100 = Machine("cuda", "NVIDIA H100", (9, 0), 227 * 1024, True)
A10 = Machine("cuda", "NVIDIA A10", (8, 6), 99 * 1024, True)
T4 = Machine("cuda", "Tesla T4", (7, 5), 64 * 1024, True)


@pytest.mark.parametrize(
    ("machine", "dtype", "d", "why"),
    [
        (H100, torch.bfloat16, 64, ""),
        (H100, torch.float32, 128, ""),
        (H100, torch.float64, 64, "no float64"),
        (H100, torch.bfloat16, 20, "multiples of 8"),
        (T4, torch.bfloat16, 64, "bfloat16 needs compute capability 8.0"),
        (H100, torch.bfloat16, 256, ""),
        (H100, torch.float32, 256, ""),
        (A10, torch.bfloat16, 64, ""),
        (A10, torch.bfloat16, 256, r"204,800 bytes of shared memory, NVIDIA A10 \(sm_86\) has 101,376"),
        (T4, torch.float16, 64, r"asynchronous copies .* Tesla T4 \(sm_75\) has less"),
        (Machine("cpu", has_triton=True, interprets=True), torch.bfloat16, 64, "for integers"),
    ],
)
def test_what_the_machine_lacks_decides(machine: Machine, dtype: torch.dtype, d: int, why: str) -> None:
    choice = ATTENTION.choose(Call(machine, dtype, {**_SIZES, "d": d, "dv": d}))
    assert choice.form.name == ("torch" if why else "triton")
    if why:
        with pytest.raises(AssertionError, match=why):
            raise AssertionError(choice.refused["triton"])


@pytest.mark.parametrize(
    ("machine", "dtype", "sizes", "why"),
    [
        (H100, torch.bfloat16, {}, ""),
        (H100, torch.float16, {"d": 72, "dv": 120, "causal": 1}, ""),
        (H100, torch.float32, {}, "bfloat16 or float16"),
        (H100, torch.bfloat16, {"statistics": 0}, "without statistics Triton's form is faster"),
        (H100, torch.bfloat16, {"masks": 1}, "the causal one"),
        (H100, torch.bfloat16, {"d": 64}, r"from 65 to 128, multiples of 8, not \[64, 128\]"),
        (H100, torch.bfloat16, {"dv": 136}, r"not \[128, 136\]"),
        (A10, torch.bfloat16, {}, r"capability 9, NVIDIA A10 \(sm_86\) has others"),
        (Machine("cuda", "NVIDIA B200", (10, 0), 227 * 1024, True), torch.bfloat16, {}, "capability 9"),
        (Machine("cpu"), torch.bfloat16, {}, "CUDA C.. compiles for NVIDIA's GPUs, not for cpu"),
    ],
)
def test_hopper_has_a_form_of_its_own(machine: Machine, dtype: torch.dtype, sizes: dict[str, int], why: str) -> None:
    choice = ATTENTION.choose(Call(machine, dtype, {**_SIZES, "d": 128, "dv": 128, **sizes}))
    assert (choice.form.name == "cuda") == (not why)
    assert re.search(why, choice.refused.get("cuda", ""))


def test_the_registry_knows_it(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        "torch: takes B 2, H 4, K 2, M 5, N 7, d 16, dv 32, causal 0, masks 0, statistics 0; float32 on cpu"
        in registry.why("attention", _Q, _K, _V)
    )
    monkeypatch.setenv("KERNELS_FORM", "attention=triton")
    with pytest.raises(KernelUnavailable, match="no float64"):
        attention(*(x.to(device, torch.float64) for x in (_Q, _K, _V)))
