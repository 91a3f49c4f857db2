"""Linear layers in int8: exact sums, float64's truth, onnxruntime's quantized operators, and what is refused."""

from __future__ import annotations

import io

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch.nn.functional import gelu, linear, silu

from kernels import registry
from kernels.dispatch import Call
from kernels.int8_linear import fused, linear_w8a8, operators, quantize_rows, reference, stacked
from kernels.machine import Machine

pytestmark = pytest.mark.slow

SHAPES = [(1, 1, 1), (3, 63, 5), (17, 130, 33), (20, 112, 48)]  # rows, in, out; the last in multiples of 16 bytes
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
FORMS = ["torch", "triton"]
SMALL = fused.Tiles(16, 16, 32, 4, 2)  # several tiles in each direction, and several a program


def _layer(rows: int, n: int, outs: int, device: torch.device) -> tuple[torch.Tensor, ...]:
    """x, its scales, weight, its scales and a bias; int8 as extreme as it can be."""
    rng = torch.Generator().manual_seed(rows * n * outs)
    x, weight = (torch.randint(-128, 128, (m, n), dtype=torch.int8, generator=rng) for m in (rows, outs))
    x_scale, weight_scale = (torch.rand(m, generator=rng) * 0.01 for m in (rows, outs))
    given = x, x_scale, weight, weight_scale, torch.randn(outs, generator=rng)
    return tuple(t.to(device) for t in given)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "n"), [(1, 1), (3, 63), (5, 1000)])
def test_rows_are_off_by_half_a_scale_at_most(
    rows: int, n: int, dtype: torch.dtype, form: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERNELS_FORM", form)
    x = torch.randn(rows, n, generator=torch.Generator().manual_seed(n)).to(device, dtype)
    q, scale = quantize_rows(x)
    assert q.dtype == torch.int8
    torch.testing.assert_close(scale, x.float().abs().amax(1) / 127)
    half = scale.double()[:, None] * (0.5 + 127 * 2**-23)  # the quotient and the scale are rounded too
    assert ((q.double() * scale.double()[:, None] - x.double()).abs() <= half).all()


@pytest.mark.parametrize("given", [None, 0.02])
@pytest.mark.parametrize("n", [63, 9000])  # longer than one piece
def test_triton_quantizes_to_the_same_bits(n: int, given: float | None, device: torch.device) -> None:
    x = torch.randn(4, n, generator=torch.Generator().manual_seed(n)).to(device)
    x[1], x[2, 1], x[3, 2] = 0, float("nan"), float("inf")
    scale = None if given is None else torch.tensor([given], device=device)
    for found, expected in zip(fused.quantize_rows(x, scale), reference.quantize_rows(x, scale), strict=True):
        torch.testing.assert_close(found[:2], expected[:2], rtol=0, atol=0)
        if found.is_floating_point():
            torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)


def test_a_given_scale_is_that_of_onnx() -> None:
    x = torch.randn(5, 33, generator=torch.Generator().manual_seed(0)) * 3
    q, scale = quantize_rows(x, 0.02)
    assert (scale == 0.02).all()
    node = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [node], "g", [info("x", TensorProto.FLOAT, [5, 33])], [info("y", TensorProto.INT8, [5, 33])],
        [helper.make_tensor("s", TensorProto.FLOAT, [], [0.02]), helper.make_tensor("z", TensorProto.INT8, [], [0])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    np.testing.assert_array_equal(_run(model, x), q)


@pytest.mark.parametrize("activation", [None, "relu", "gelu", "silu"])
@pytest.mark.parametrize(("rows", "n", "outs"), SHAPES)
def test_the_layer_is_as_close_to_the_truth_as_torch(
    rows: int, n: int, outs: int, activation: str | None, device: torch.device
) -> None:
    x, x_scale, weight, weight_scale, bias = _layer(rows, n, outs, device)
    name = activation or "none"
    truth = reference.linear_w8a8(x, x_scale, weight, weight_scale, bias, name, torch.float64)
    for dtype in DTYPES:
        plain = reference.linear_w8a8(x, x_scale, weight, weight_scale, bias, name, dtype)
        cut_off = torch.finfo(dtype).eps * truth.abs().max()  # Triton's interpreter does not round to bfloat16
        allowed = 2 * (plain.double() - truth).abs().max() + cut_off
        of_torch = stacked.linear_w8a8(x, x_scale, weight, weight_scale, bias, name, dtype)
        of_triton = fused.linear_w8a8(x, x_scale, weight, weight_scale, bias, name, dtype, tiles=SMALL)
        for found in (of_torch, of_triton):
            assert found.dtype == dtype
            assert (found.double() - truth).abs().max() <= allowed


@pytest.mark.parametrize("form", FORMS)
def test_sums_are_exact(form: str, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 they were not: 2000 products of 127 and 127 pass 2**24, and the last one of 1 is lost."""
    monkeypatch.setenv("KERNELS_FORM", form)
    x, weight = (torch.full((2, 2001), 127, dtype=torch.int8, device=device) for _ in range(2))
    x[:, -1], weight[:, -1] = 1, 1
    ones = torch.ones(2, device=device)
    exact = torch.tensor(2000 * 127 * 127 + 1, dtype=torch.float64).float().item()
    assert (linear_w8a8(x, weight, ones, 1.0) == exact).all()


@pytest.mark.parametrize("form", FORMS)
def test_float_inputs_are_quantized_on_the_way(
    form: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERNELS_FORM", form)
    rng = torch.Generator().manual_seed(0)
    x, w, bias = (torch.randn(*shape, generator=rng).to(device) for shape in ((2, 3, 64), (24, 64), (24,)))
    weight, scale = quantize_rows(w)
    found = linear_w8a8(x, weight, scale, bias=bias, activation="silu")
    assert found.shape == (2, 3, 24)
    truth = linear(x.double(), w.double(), bias.double())
    steps = x.abs().amax(-1, keepdim=True) / 127, scale  # an element is off by half of one
    bound = steps[1] / 2 * x.abs().sum(-1, keepdim=True) + steps[0] / 2 * (w.abs().sum(1) + 64 / 2 * steps[1])
    assert (
        (found.double() - silu(truth)).abs() <= 1.1 * bound
    ).all()  # the slope of silu and gelu is at most 1.1, 1.13
    fixed = linear_w8a8(x, weight, scale, x.abs().max() / 127, bias, activation="gelu", dtype=torch.bfloat16)
    assert fixed.dtype == torch.bfloat16
    assert ((fixed.double() - gelu(truth)).abs() <= 1.13 * bound * x.abs().max() / (127 * steps[0]) + 0.1).all()


@pytest.mark.parametrize("form", FORMS)
def test_nan_and_infinity_go_through_and_zeros_stay(
    form: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERNELS_FORM", form)
    x = torch.ones(4, 16, device=device)
    x[0], x[1, 3], x[2, 3] = 0, float("nan"), float("inf")
    weight, scale = quantize_rows(torch.ones(3, 16, device=device))
    found = linear_w8a8(x, weight, scale, activation="relu")
    assert (found[0] == 0).all()
    assert found[1:3].isnan().all()
    torch.testing.assert_close(found[3], torch.full((3,), 16.0, device=device))
    clipped = linear_w8a8(x, weight, scale, 0.5)
    assert clipped[1].isnan().all()
    torch.testing.assert_close(clipped[2], torch.full((3,), 15 + 63.5, device=device))


@pytest.mark.parametrize("form", FORMS)
def test_strides_and_nothing_at_all(form: str, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERNELS_FORM", form)
    x, x_scale, weight, weight_scale, bias = _layer(6, 32, 16, device)
    whole = linear_w8a8(x, weight, weight_scale, x_scale, bias)
    every_other = linear_w8a8(x[::2], weight[::2], weight_scale[::2], x_scale[::2], bias[::2])
    torch.testing.assert_close(every_other, whole[::2, ::2])
    turned = linear_w8a8(x.T.contiguous().T, weight.T.contiguous().T, weight_scale, x_scale, bias)
    torch.testing.assert_close(turned, whole)
    assert linear_w8a8(x[:0], weight, weight_scale, x_scale[:0], bias).shape == (0, 16)
    assert linear_w8a8(x, weight[:0], weight_scale[:0], x_scale).shape == (6, 0)
    nothing = linear_w8a8(x[:, :0], weight[:, :0], weight_scale, x_scale, bias)
    torch.testing.assert_close(nothing, bias.expand(6, 16))
    assert [t.shape for t in quantize_rows(torch.ones(0, 5, device=device))] == [(0, 5), (0,)]
    assert quantize_rows(torch.ones(2, 0, device=device))[1].tolist() == [0, 0]


def test_torch_accepts_the_operators_and_there_is_no_gradient() -> None:
    x, x_scale, weight, weight_scale, bias = _layer(3, 7, 5, torch.device("cpu"))
    given = (x, x_scale, weight, weight_scale, bias, "gelu", torch.float32)
    torch.library.opcheck(operators.linear_w8a8.whole, given)
    torch.library.opcheck(operators.quantize_rows.whole, (torch.ones(2, 3), None))
    asked = linear_w8a8(torch.ones(2, 7, requires_grad=True), weight, weight_scale)
    with pytest.raises(RuntimeError, match="no autograd formula"):
        asked.sum().backward()


@pytest.mark.parametrize("x_scale", [None, 0.03])
def test_torch_compiles_it_whole(x_scale: float | None) -> None:
    model, x = _Layer(x_scale), torch.randn(4, 48, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(x), model(x))


class _Layer(torch.nn.Module):
    def __init__(self, x_scale: float | None) -> None:
        super().__init__()
        _, _, weight, weight_scale, bias = _layer(4, 48, 8, torch.device("cpu"))
        self.register_buffer("weight", weight)
        self.register_buffer("weight_scale", weight_scale)
        self.register_buffer("bias", bias)
        self.x_scale = x_scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear_w8a8(x, self.weight, self.weight_scale, self.x_scale, self.bias, activation="relu")


@pytest.mark.parametrize("x_scale", [None, 0.03])
def test_exported_to_onnx_it_answers_the_same(x_scale: float | None) -> None:
    x = torch.randn(4, 48, generator=torch.Generator().manual_seed(1))
    model = _Layer(x_scale).eval()
    program = torch.onnx.export(model, (x,), dynamo=True, verbose=False)
    assert program is not None
    np.testing.assert_allclose(_run(program.model_proto, x), model(x), rtol=1e-5, atol=1e-6)


def _run(model: object, x: torch.Tensor) -> np.ndarray:
    held = io.BytesIO(model.SerializeToString())  # type: ignore[attr-defined]
    session = onnxruntime.InferenceSession(held.getvalue(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


def test_older_gpus_take_torchs_own_product() -> None:
    sizes = {"rows": 8, "in": 64, "out": 64}
    old, new = Machine("cuda", "Tesla T4", (7, 5), 2**16, True), Machine("cuda", "NVIDIA H100", (9, 0), 2**17, True)
    chosen = operators.LINEAR.choose(Call(old, torch.int8, sizes))
    assert chosen.form.name == "torch"
    assert "compute capability 8.0" in chosen.refused["triton"]
    assert operators.LINEAR.choose(Call(new, torch.int8, sizes)).form.name == "triton"
    x, _, weight, weight_scale, _ = _layer(3, 7, 5, torch.device("cpu"))
    assert "rows 3, in 7, out 5; int8 on cpu" in registry.why("linear_w8a8", x, weight, weight_scale)
    assert "rows 3, n 7; float32 on cpu" in registry.why("quantize_rows", x.float())


def test_a_result_that_fits_nowhere_is_refused_before_it_is_begun() -> None:
    x, weight = (torch.ones(1, 1, dtype=torch.int8).expand(2**21, 1) for _ in range(2))
    with pytest.raises(MemoryError, match=r"linear_w8a8 needs 17592\.19 GB"):
        linear_w8a8(x, weight, torch.ones(1).expand(2**21), 1.0)


I8, F32 = torch.ones(3, 4, dtype=torch.int8), torch.ones(3, 4)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: quantize_rows(torch.ones(4)), ValueError, r"\(rows, n\), got \(4,\)"),
        (lambda: quantize_rows(F32.double()), TypeError, "float32, bfloat16 or float16, got torch.float64"),
        (lambda: quantize_rows(F32, torch.ones(3)), ValueError, r"one number or one for each row, got \(3,\)"),
        (lambda: quantize_rows(F32, -0.1), ValueError, "positive and finite, got -0.1"),
        (lambda: linear_w8a8(I8, I8, torch.ones(3), 0.0), ValueError, "positive and finite, got 0.0"),
        (lambda: linear_w8a8(I8, I8, torch.ones(3), torch.ones(3).to("meta")), ValueError, "x_scale must be on cpu"),
        (lambda: linear_w8a8(F32, I8[:, :3], torch.ones(3)), ValueError, r"\(3, 4\) and \(3, 3\)"),
        (lambda: linear_w8a8(F32, I8, torch.ones(4)), ValueError, r"must be \(3,\), got \(4,\) and None"),
        (lambda: linear_w8a8(F32, I8, torch.ones(3), bias=torch.ones(1)), ValueError, r"got \(3,\) and \(1,\)"),
        (lambda: linear_w8a8(F32, F32, torch.ones(3)), TypeError, "weight int8, got .*float32"),
        (lambda: linear_w8a8(F32, I8, torch.ones(3).half()), TypeError, "weight_scale must be float32"),
        (lambda: linear_w8a8(I8, I8, torch.ones(3)), ValueError, "has no x_scale"),
        (lambda: linear_w8a8(I8, I8, torch.ones(3), torch.ones(2)), ValueError, "one for each row"),
        (lambda: linear_w8a8(F32, I8, torch.ones(3), activation="tanh"), ValueError, "known: none, relu, gelu, silu"),
        (lambda: linear_w8a8(F32, I8, torch.ones(3), dtype=torch.int8), TypeError, "not torch.int8"),
        (lambda: linear_w8a8(F32, I8.to("meta"), torch.ones(3)), ValueError, "must be on cpu, where x is"),
        (
            lambda: linear_w8a8(F32[:, :1].expand(3, 2**17), I8[:, :1].expand(3, 2**17), torch.ones(3)),
            ValueError,
            "in is 131072: int32 holds the sum of 131071",
        ),
    ],
)
def test_what_is_no_layer_is_refused(call: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()  # type: ignore[operator]
