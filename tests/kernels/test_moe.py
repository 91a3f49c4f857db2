"""Mixtures of experts: every expert asked and masked is the truth; routing, gradients, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime
import pytest
import torch
from torch.nn.functional import gelu, gumbel_softmax, linear

from kernels import registry
from kernels.dispatch import Call
from kernels.machine import Machine
from kernels.moe import by_expert, experts, moe, operators, reference, route
from kernels.moe.layers import Layers

pytestmark = pytest.mark.slow

Inputs = tuple[torch.Tensor, ...]
CPU = torch.device("cpu")


def _layer(
    tokens: int, d: int, hidden: int, count: int, k: int, dtype: torch.dtype = torch.float64, device: torch.device = CPU
) -> Inputs:
    """x, chosen, gates, w_in, b_in, w_out, b_out; nobody chooses the second expert."""
    rng = torch.Generator().manual_seed(tokens * d + k)
    logits = torch.rand(tokens, count, generator=rng)
    logits[:, 1] = -1
    shapes = ((tokens, d), (tokens, k), (count, hidden, d), (count, hidden), (count, d, hidden), (count, d))
    x, gates, *weights = (torch.randn(shape, dtype=torch.float64, generator=rng).to(device, dtype) for shape in shapes)
    weights = [w / w.shape[-1] ** 0.5 for w in weights]
    return x, logits.topk(k).indices.to(device), gates, *weights


def _call(given: tuple[torch.Tensor, ...], activation: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Layers]:
    """What `_layer` makes, as the forms take it."""
    x, chosen, gates, w_in, b_in, w_out, b_out = given
    return x, chosen, gates, Layers(w_in, b_in, w_out, b_out, activation)


def _exact(given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(t.double() if t.is_floating_point() else t for t in given)


def _errors_allowed(found: Inputs, plain: Inputs, truth: Inputs) -> None:
    for mine, torchs, exact in zip(found, plain, truth, strict=True):
        if not mine.numel():
            continue
        cut_off = torch.finfo(mine.dtype).eps * exact.abs().max()  # Triton's interpreter does not round to bfloat16
        assert (mine.double() - exact).abs().max() <= 2 * (torchs.double() - exact).abs().max() + cut_off


@pytest.mark.parametrize(
    ("form", "dtype", "activation", "tokens", "d", "hidden", "count", "k"),
    [
        *(("torch", torch.float32, name, 37, 24, 40, 5, 2) for name in ("relu", "gelu", "silu", "none")),
        *(("triton", torch.float16, name, 9, 8, 16, 3, 1) for name in ("relu", "silu", "none")),
        ("triton", torch.float16, "gelu", 37, 24, 40, 5, 2),
        ("torch", torch.float32, "gelu", 1, 3, 5, 2, 2),
    ],
)
def test_answers_and_gradients_are_as_close_to_the_truth_as_torchs(
    form: str, dtype: torch.dtype, activation: str, tokens: int, d: int, hidden: int, count: int, k: int,
    device: torch.device, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("KERNELS_FORM", form)
    given = _layer(tokens, d, hidden, count, k, dtype, device)
    grad = torch.randn(tokens, d, generator=torch.Generator().manual_seed(1)).to(device, dtype)
    of = operators.experts_call(*given)
    call, exact = _call(given, activation), _call(_exact(given), activation)
    out, *saved = operators.EXPERTS.run(of, *call, True)
    _errors_allowed((out,), (reference.experts(*call),), (reference.experts(*exact),))
    _errors_allowed(
        operators.EXPERTS_BACKWARD.run(of, grad, *call, saved),
        reference.experts_backward(grad, *call),
        reference.experts_backward(grad.double(), *exact),
    )


def test_bfloat16_too(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERNELS_FORM", "triton")
    given = _layer(20, 16, 24, 3, 2, torch.bfloat16, device)
    call, exact = _call(given, "gelu"), _call(_exact(given), "gelu")
    out = operators.EXPERTS.run(operators.experts_call(*given), *call, False)[0]
    _errors_allowed((out,), (reference.experts(*call),), (reference.experts(*exact),))


@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize("k", [1, 2])
def test_gradients_are_those_of_autograd_through_all_experts(k: int, biases: bool) -> None:
    x, chosen, gates, w_in, b_in, w_out, b_out = (
        t.requires_grad_(t.is_floating_point()) for t in _layer(9, 4, 6, 3, k)
    )
    some = (b_in, b_out) if biases else (None, None)
    leaves = [t for t in (x, gates, w_in, w_out, *some) if t is not None]
    found = experts(x, chosen, gates, w_in, w_out, b_in=some[0], b_out=some[1])
    every = reference.experts(x, chosen, gates, Layers(w_in, some[0], w_out, some[1], "gelu"))
    torch.testing.assert_close(found, every)
    weights = torch.randn(found.shape, dtype=found.dtype)
    expected = torch.autograd.grad((every * weights).sum(), leaves)
    for mine, autograds in zip(torch.autograd.grad((found * weights).sum(), leaves), expected, strict=True):
        torch.testing.assert_close(mine, autograds)
    assert not expected[2][1].any()  # the expert that nobody chose


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", None])
def test_gradients_are_those_of_finite_differences(activation: str | None) -> None:
    x, chosen, *floats = _layer(4, 3, 5, 3, 2)

    def mixture(x: torch.Tensor, gates: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        w_in, b_in, w_out, b_out = rest
        return experts(x, chosen, gates, w_in, w_out, b_in=b_in, b_out=b_out, activation=activation)

    assert torch.autograd.gradcheck(mixture, tuple(t.requires_grad_() for t in (x, *floats)))


@pytest.mark.parametrize("k", [1, 2])
def test_the_routers_gradients_are_those_of_finite_differences(k: int) -> None:
    logits = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(k)).requires_grad_()

    def routed(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return route(logits, k, temperature=0.7, hard=False)[1:]

    assert torch.autograd.gradcheck(routed, logits)


def test_soft_gates_are_the_softmax_over_the_temperature() -> None:
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    found = route(logits, 2, temperature=0.5, hard=False)
    torch.testing.assert_close(found.gates, (logits / 0.5).softmax(1).gather(1, found.chosen))


def test_hard_gates_have_the_gradient_of_soft_ones() -> None:
    logits = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weights = torch.randn(6, 2, dtype=torch.float64)
    hard, soft = route(logits, 2, temperature=2.0), route(logits, 2, temperature=2.0, hard=False)
    assert (hard.gates == 0.5).all()
    torch.testing.assert_close(
        *(torch.autograd.grad((gates * weights).sum(), logits)[0] for gates in (hard.gates, soft.gates))
    )


def test_one_of_one_is_torchs_gumbel_softmax() -> None:
    logits = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(3)
    expected = gumbel_softmax(logits, tau=0.5, hard=True)
    found = route(logits, 1, temperature=0.5, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(torch.zeros(8, 5).scatter(1, found.chosen, found.gates), expected)


def test_noise_draws_experts_by_their_probability() -> None:
    logits = torch.tensor([[0.0, 1.0, -1.0]]).expand(20_000, 3)
    drawn = route(logits, generator=torch.Generator().manual_seed(0)).chosen.flatten()
    shares = torch.bincount(drawn, minlength=3) / 20_000
    torch.testing.assert_close(shares, logits[0].softmax(0), atol=4 * 0.5 / 20_000**0.5, rtol=0)  # four deviations
    torch.testing.assert_close(drawn, route(logits, generator=torch.Generator().manual_seed(0)).chosen.flatten())
    assert (route(logits).chosen == 1).all()


def test_balance_is_one_where_even_and_the_number_of_experts_where_not() -> None:
    even = torch.eye(4).repeat(3, 1) * 50
    assert route(even).balance.item() == pytest.approx(1)
    assert route(even[:1].expand(6, 4)).balance.item() == pytest.approx(4)
    assert route(torch.zeros(0, 4)).balance == 0
    logits = torch.randn(30, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    before = route(logits).balance
    before.backward()
    assert route(logits - 10 * logits.grad).balance < before  # a step against it spreads probability


@pytest.mark.parametrize("k", [1, 2])
def test_balance_is_of_what_was_chosen_and_of_probabilities_without_noise(k: int) -> None:
    logits = torch.randn(50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(k))
    found = route(logits, k, temperature=0.3, generator=torch.Generator().manual_seed(0))
    share = torch.bincount(found.chosen.flatten(), minlength=4) / (50 * k)
    torch.testing.assert_close(found.balance, 4 * (share * logits.softmax(1).mean(0)).sum())


def test_a_whole_mixture_is_its_parts_and_reaches_the_routers_weight() -> None:
    x, _, _, w_in, b_in, w_out, b_out = _layer(12, 4, 6, 3, 2)
    router = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(5)).requires_grad_()
    x = x.reshape(3, 4, 4)
    found = moe(x, linear(x, router), w_in, w_out, b_in=b_in, b_out=b_out, k=2, hard=False)
    assert found.out.shape == x.shape
    probability = linear(x, router).softmax(-1).reshape(12, 3)
    heard = torch.zeros(12, 3, dtype=torch.float64).scatter(1, found.chosen, probability.gather(1, found.chosen))
    said = torch.stack([linear(gelu(linear(x, w_in[e], b_in[e])), w_out[e], b_out[e]) for e in range(3)], 2)
    expected = (said.reshape(12, 3, 4) * heard[..., None]).sum(1).reshape(x.shape)
    torch.testing.assert_close(found.out, expected)
    torch.testing.assert_close(*(torch.autograd.grad(out.square().sum(), router)[0] for out in (found.out, expected)))


@pytest.mark.parametrize(("form", "dtype"), [("torch", torch.float32), ("triton", torch.float16)])
def test_nan_stays_with_its_token_and_strides_and_nothing_at_all(
    form: str, dtype: torch.dtype, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERNELS_FORM", form)
    x, chosen, gates, w_in, _, w_out, _ = _layer(6, 8, 16, 3, 2, dtype, device)
    x[2, 3], x[4, 0] = float("nan"), float("inf")
    found = experts(x, chosen, gates, w_in, w_out, activation="relu")
    assert found.isfinite().all(1).tolist() == [True, True, False, True, False, True]
    strided = experts(
        x.T.contiguous().T, chosen.T.contiguous().T, gates.T.contiguous().T, w_in.mT.contiguous().mT,
        w_out.mT.contiguous().mT, activation="relu",
    )  # fmt: skip
    torch.testing.assert_close(strided, found, equal_nan=True)
    leaves = [t.detach().clone().requires_grad_() for t in (x[:0], gates[:0], w_in, w_out)]
    nothing = experts(leaves[0], chosen[:0], leaves[1], *leaves[2:])
    assert nothing.shape == (0, 8)
    nothing.sum().backward()
    assert all(t.grad is not None and not t.grad.any() for t in leaves)


def test_torch_accepts_the_operator_and_compiles_it_whole() -> None:
    x, chosen, gates, w_in, b_in, w_out, b_out = (
        t.requires_grad_(t.is_floating_point()) for t in _layer(5, 3, 4, 3, 2)
    )
    given = (x, chosen, gates, w_in, b_in, w_out, b_out)
    torch.library.opcheck(operators.experts.whole, (*given, "silu", True))
    turned = [t.detach().mT.contiguous().mT.requires_grad_(t.requires_grad) for t in given]
    torch.library.opcheck(operators.experts.whole, (*turned, "silu", True))

    def mixture(x: torch.Tensor) -> torch.Tensor:
        return experts(x, chosen, gates, w_in, w_out) * 2

    torch.testing.assert_close(torch.compile(mixture, backend="eager", fullgraph=True)(x), mixture(x))


class _Mixture(torch.nn.Module):
    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k
        _, _, _, w_in, b_in, w_out, b_out = _layer(1, 4, 6, 3, k, torch.float32)
        self.weights = torch.nn.ParameterList([w_in, b_in, w_out, b_out])
        self.router = torch.nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        w_in, b_in, w_out, b_out = self.weights
        return moe(x, self.router(x), w_in, w_out, b_in=b_in, b_out=b_out, k=self.k, hard=False).out


@pytest.mark.parametrize("k", [1, 2])
def test_exported_to_onnx_it_answers_the_same(k: int) -> None:
    torch.manual_seed(k)
    x, model = torch.randn(7, 4), _Mixture(k).eval()
    program = torch.onnx.export(model, (x,), dynamo=True, verbose=False)
    assert program is not None
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    np.testing.assert_allclose(found, model(x).detach(), rtol=1e-4, atol=1e-6)


def test_a_model_with_noise_is_not_exported() -> None:
    class Noisy(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return route(x, generator=torch.Generator()).gates

    with pytest.raises(ValueError, match="generator=None"):
        torch.export.export(Noisy(), (torch.ones(3, 4),))


H100 = Machine("cuda", "NVIDIA H100", (9, 0), 2**17, True)
SIZES = {"tokens": 64, "d": 64, "hidden": 128, "experts": 8, "k": 2}


@pytest.mark.parametrize(
    ("machine", "dtype", "sizes", "why"),
    [
        (H100, torch.bfloat16, {}, ""),
        (Machine("cuda", "Tesla T4", (7, 5), 2**16, True), torch.float16, {}, "compute capability 8.0"),
        (H100, torch.float32, {}, "bfloat16 or float16"),
        (H100, torch.bfloat16, {"d": 12}, "multiples of 8"),
        (H100, torch.bfloat16, {"experts": 257}, "up to 256 experts"),
        (H100, torch.bfloat16, {"tokens": 2**30}, r"2\*\*30 choices"),
    ],
)
def test_halves_in_multiples_of_eight_take_triton(
    machine: Machine, dtype: torch.dtype, sizes: dict[str, int], why: str
) -> None:
    choice = operators.EXPERTS.choose(Call(machine, dtype, SIZES | sizes))
    assert choice.form.name == ("torch" if why else "triton")
    assert why.replace("\\", "") in choice.refused.get("triton", "")


def test_the_registry_tells() -> None:
    given = _layer(6, 8, 16, 3, 2)
    assert "tokens 6, d 8, hidden 16, experts 3, k 2; float64 on cpu" in registry.why("moe", *given)


def test_rows_that_fit_nowhere_are_refused_before_they_are_begun() -> None:
    x, chosen = torch.ones(1, 1).expand(2**24, 2**14), torch.zeros(1, 1, dtype=torch.int64).expand(2**24, 1)
    w_in, w_out = torch.ones(1, 1, 1).expand(1, 2**14, 2**14), torch.ones(1, 1, 1).expand(1, 2**14, 2**14)
    with pytest.raises(MemoryError, match=r"moe needs 54\d\d\.\d+ GB"):
        experts(x, chosen, torch.ones(1, 1).expand(2**24, 1), w_in, w_out)


X, CHOSEN, GATES = torch.ones(3, 4), torch.zeros(3, 1, dtype=torch.int64), torch.ones(3, 1)
W_IN, W_OUT = torch.ones(2, 6, 4), torch.ones(2, 4, 6)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: route(torch.ones(3)), ValueError, r"experts>=k\) and k 1 or 2, got \(3,\) and 1"),
        (lambda: route(torch.ones(3, 4), 3), ValueError, "and 3"),
        (lambda: route(torch.ones(3, 1), 2), ValueError, r"got \(3, 1\) and 2"),
        (lambda: route(torch.ones(3, 4).int()), TypeError, "floating point, got torch.int32"),
        (lambda: route(torch.ones(3, 4), temperature=0), ValueError, "must be positive, got 0"),
        (lambda: experts(X.int(), CHOSEN, GATES, W_IN, W_OUT), TypeError, "floating point and chosen int64"),
        (lambda: experts(X, GATES, GATES, W_IN, W_OUT), TypeError, "chosen int64"),
        (lambda: experts(X, CHOSEN + 2, GATES, W_IN, W_OUT), ValueError, r"of 0\.\.1, the 2 experts there are, got 2"),
        (lambda: experts(X, CHOSEN - 1, GATES, W_IN, W_OUT), ValueError, r"experts there are, got -1\.\.-1"),
        (lambda: experts(X, CHOSEN[:2], GATES, W_IN, W_OUT), ValueError, r"\(3, 4\), \(2, 1\), \(3, 1\)"),
        (lambda: experts(X, CHOSEN, GATES, W_OUT, W_IN), ValueError, r"\(E, hidden, 4\) and w_out \(E, 4, hidden\)"),
        (lambda: experts(X, CHOSEN, GATES, W_IN, W_OUT, b_in=GATES), ValueError, "both be given, or neither"),
        (
            lambda: experts(X, CHOSEN, GATES, W_IN, W_OUT, b_in=torch.ones(2, 6), b_out=GATES),
            ValueError,
            r"b_out must be \(2, 4\), got \(3, 1\)",
        ),
        (
            lambda: experts(X, CHOSEN, GATES, W_IN.half(), W_OUT),
            ValueError,
            "w_in is torch.float16 on cpu and x torch.f",
        ),
        (lambda: experts(X, CHOSEN.to("meta"), GATES, W_IN, W_OUT), ValueError, "must be on cpu, where x is"),
        (lambda: experts(X, CHOSEN, GATES, W_IN, W_OUT, activation="tanh"), ValueError, "unknown activation 'tanh'"),
        (lambda: moe(X, torch.ones(3, 5), W_IN, W_OUT), ValueError, "logits are of 5 experts, and w_in holds 2"),
    ],
)
def test_what_is_no_mixture_is_refused(call: Callable[[], object], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()


def test_experts_are_read_in_the_order_of_their_tokens() -> None:
    """The order is what both forms sort by: by expert, and within one as the tokens come."""
    x, chosen, gates, layers = _call(_layer(9, 3, 4, 3, 2), "relu")
    order = by_expert.experts(x, chosen, gates, layers, False)[1]
    key = chosen.flatten() * 100 + torch.arange(18)
    assert (key[order].diff() > 0).all()
