"""Linear layers with weights of four bits: the numbers of onnxruntime, float64's truth, and what is refused."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from kernels import registry
from kernels.dispatch import Call
from kernels.int4_linear import (
    cuda,
    dequantize_int4,
    fused,
    in_blocks,
    linear_int4,
    operators,
    pack_int4,
    quantize_int4,
    reference,
    unpack_int4,
)
from kernels.machine import Machine

pytestmark = pytest.mark.slow

HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9
CUTS_FOR_HOPPER = [cuda.Cut(1, 4, 4), cuda.Cut(2, 8, 1)]
"""Of the form in CUDA C++, beside the one that it chooses."""

CUTS = [fused.Cut(16, 2, 2, 2, 8), fused.Cut(32, 2, 4, 2, 16)]  # a program's rows and outputs, fewer and more
SHAPES = [(1, 128, 8, 128), (3, 384, 21, 128), (17, 256, 32, 128), (2, 768, 5, 384)]  # rows, in, out, group


def _layer(n: int, outs: int, group: int, zeros: bool, device: torch.device) -> tuple[torch.Tensor | None, ...]:
    weight = torch.randn(outs, n, generator=torch.Generator().manual_seed(n * outs)) + 0.5 * zeros
    return tuple(None if t is None else t.to(device) for t in quantize_int4(weight, group=group, zeros=zeros))


def _x(rows: int, n: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.randn(rows, n, generator=torch.Generator().manual_seed(rows)).to(device, dtype)


def test_two_weights_a_byte_and_back() -> None:
    values = torch.arange(32).reshape(2, 16) % 16
    packed = pack_int4(values)
    assert packed.shape == (2, 8)
    assert packed[0, 0] == 0x10  # 0 in the low half, 1 in the high one
    torch.testing.assert_close(unpack_int4(packed), values.to(torch.uint8))
    np.testing.assert_array_equal(
        helper.make_tensor("w", TensorProto.UINT4, [2, 16], values.numpy()).raw_data
        or np.asarray(helper.make_tensor("w", TensorProto.UINT4, [2, 16], values.numpy()).int32_data, dtype=np.uint8),
        packed.flatten().numpy(),
    )


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("shift", [0.0, 3.0, -3.0])
def test_a_weight_is_off_by_half_a_scale_at_most(zeros: bool, shift: float) -> None:
    weight = torch.randn(6, 256, generator=torch.Generator().manual_seed(0)) + shift
    weight[0] = 0
    packed, scale, zero = quantize_int4(weight, zeros=zeros)
    assert (zero is not None) == zeros
    off = (dequantize_int4(packed, scale, zero) - weight).abs().unflatten(1, (2, 128))
    assert (off <= scale[..., None] * (0.5 + 1e-5)).all()
    assert (dequantize_int4(packed, scale, zero)[0] == 0).all()


@pytest.mark.parametrize("zeros", [False, True])
def test_weights_are_those_of_onnx_to_the_bit(zeros: bool) -> None:
    packed, scale, zero = _layer(256, 5, 128, zeros, torch.device("cpu"))
    assert packed is not None
    assert scale is not None
    held = [
        helper.make_tensor("w", TensorProto.UINT4, [5, 256], packed.numpy().tobytes(), raw=True),
        helper.make_tensor("s", TensorProto.FLOAT, [5, 2], scale.numpy()),
        helper.make_tensor(
            "z", TensorProto.UINT4, [5, 2], np.full((5, 2), 8, np.uint8) if zero is None else zero.numpy()
        ),
    ]
    node = helper.make_node("DequantizeLinear", ["w", "s", "z"], ["y"], axis=1, block_size=128)
    graph = helper.make_graph([node], "g", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [5, 256])], held)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    np.testing.assert_array_equal(_run(model, {}), dequantize_int4(packed, scale, zero).numpy())


def test_bytes_are_those_of_matmulnbits() -> None:
    packed, scale, _ = _layer(256, 24, 128, False, torch.device("cpu"))
    assert packed is not None
    assert scale is not None
    x = _x(3, 256, torch.float32, torch.device("cpu"))
    held = [
        helper.make_tensor("w", TensorProto.UINT8, [24, 2, 64], packed.numpy().tobytes(), raw=True),
        helper.make_tensor("s", TensorProto.FLOAT, [48], scale.numpy().flatten()),
    ]
    node = helper.make_node(
        "MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", K=256, N=24, bits=4, block_size=128,
        accuracy_level=1,
    )  # fmt: skip
    info = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in (("x", [3, 256]), ("y", [3, 24]))
    ]
    graph = helper.make_graph([node], "g", info[:1], info[1:], held)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    np.testing.assert_allclose(_run(model, {"x": x.numpy()}), linear_int4(x, packed, scale), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize(("rows", "n", "outs", "group"), SHAPES)
def test_fused_is_as_close_to_the_truth_as_torch(
    rows: int, n: int, outs: int, group: int, zeros: bool, dtype: torch.dtype, device: torch.device
) -> None:
    packed, scale, zero = _layer(n, outs, group, zeros, device)
    assert packed is not None
    assert scale is not None
    x, bias = _x(rows, n, dtype, device), _x(1, outs, dtype, device)[0]
    truth = reference.linear_int4(x.double(), packed, scale, zero, bias.double())
    plain = reference.linear_int4(x, packed, scale, zero, bias)
    cut_off = torch.finfo(dtype).eps * truth.abs().max()  # Triton's interpreter does not round to bfloat16
    allowed = 2 * (plain.double() - truth).abs().max() + cut_off
    for cut in CUTS:
        assert (fused.linear_int4(x, packed, scale, zero, bias, cut).double() - truth).abs().max() <= allowed
    if HOPPER and rows <= 16 and group % 128 == 0:
        for another in (None, *CUTS_FOR_HOPPER):
            assert (cuda.linear_int4(x, packed, scale, zero, bias, another).double() - truth).abs().max() <= allowed


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_blocks_of_outputs_are_as_close_as_the_whole(
    dtype: torch.dtype, zeros: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_blocks, "_BLOCK", 4 * 96)
    packed, scale, zero = _layer(96, 10, 6, zeros, torch.device("cpu"))
    assert packed is not None
    assert scale is not None
    x, bias = _x(5, 96, dtype, torch.device("cpu")), _x(1, 10, dtype, torch.device("cpu"))[0]
    grad = _x(5, 10, dtype, torch.device("cpu"))
    for found, plain, truth in (
        (linear_int4(x, packed, scale, zero, bias), *_both(reference.linear_int4, x, packed, scale, zero, bias)),
        (
            in_blocks.linear_int4_backward(grad, packed, scale, zero),
            *_both(reference.linear_int4_backward, grad, packed, scale, zero),
        ),
    ):
        allowed = 2 * (plain.double() - truth).abs().max() + torch.finfo(dtype).eps
        assert (found.double() - truth).abs().max() <= allowed


def _both(function: object, x: torch.Tensor, *rest: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """In the dtype of x and in float64."""
    wide = [t.double() if t is not None and t.dtype == x.dtype else t for t in rest]
    return function(x, *rest), function(x.double(), *wide)  # type: ignore[operator]


@pytest.mark.parametrize("form", ["torch", "triton"])
def test_x_and_the_bias_have_gradients(form: str, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERNELS_FORM", form)
    packed, scale, zero = _layer(128, 6, 128, True, device)
    assert packed is not None
    assert scale is not None
    x, bias = _x(4, 128, torch.bfloat16, device), _x(1, 6, torch.bfloat16, device)[0]
    grad = _x(4, 6, torch.bfloat16, device)
    (linear_int4(x.requires_grad_(), packed, scale, zero, bias.requires_grad_()) * grad).sum().backward()
    assert x.grad is not None
    truth = grad.double() @ dequantize_int4(packed, scale, zero, dtype=torch.float64)
    assert (x.grad.double() - truth).abs().max() <= 2 * torch.finfo(torch.bfloat16).eps * truth.abs().max()
    torch.testing.assert_close(bias.grad, grad.sum(0))


def test_gradients_are_those_of_finite_differences() -> None:
    packed, scale, zero = _layer(12, 5, 4, True, torch.device("cpu"))
    assert packed is not None
    assert scale is not None
    x, bias = torch.randn(3, 12, dtype=torch.float64), torch.randn(5, dtype=torch.float64)

    def layer(x: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return operators.linear_int4(x, packed, scale, zero, bias)  # type: ignore[no-any-return]

    assert torch.autograd.gradcheck(layer, (x.requires_grad_(), bias.requires_grad_()))


@pytest.mark.parametrize("form", ["torch", "triton"])
def test_what_is_not_finite_stays_so_and_strides_and_nothing_at_all(
    form: str, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERNELS_FORM", form)
    packed, scale, zero = _layer(256, 6, 128, True, device)
    assert packed is not None
    assert scale is not None
    assert zero is not None
    x = _x(4, 256, torch.float16, device)
    x[1, 3], x[2, 4] = float("nan"), float("inf")
    found = linear_int4(x, packed, scale, zero)
    assert found.isfinite().all(1).tolist() == [True, False, False, True]
    assert not found[1:3].isfinite().any()
    torch.testing.assert_close(linear_int4(x[::3], packed, scale, zero), found[::3])
    turned = linear_int4(x[3:].T.contiguous().T, packed[::2], scale.T.contiguous().T[::2], zero[::2])
    torch.testing.assert_close(turned, found[3:, ::2])
    odd = torch.zeros(x.numel() + 1, dtype=x.dtype, device=device)[1:].view(x.shape).copy_(x)
    torch.testing.assert_close(linear_int4(odd, packed, scale, zero), found, equal_nan=True)
    assert linear_int4(x[:0], packed, scale, zero).shape == (0, 6)
    assert linear_int4(x.reshape(2, 2, 256), packed, scale, zero).shape == (2, 2, 6)
    assert linear_int4(x, packed[:0], scale[:0], zero[:0]).shape == (4, 0)


class _Layer(torch.nn.Module):
    def __init__(self, zeros: bool) -> None:
        super().__init__()
        for name, t in zip(("weight", "scale", "zero"), _layer(256, 8, 128, zeros, torch.device("cpu")), strict=True):
            self.register_buffer(name, t)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return linear_int4(x, self.weight, self.scale, self.zero, torch.ones(8))


@pytest.mark.parametrize("zeros", [False, True])
def test_exported_to_onnx_it_answers_the_same(zeros: bool) -> None:
    x, model = _x(3, 256, torch.float32, torch.device("cpu")), _Layer(zeros).eval()
    program = torch.onnx.export(model, (x,), dynamo=True, verbose=False)
    assert program is not None
    np.testing.assert_allclose(_run(program.model_proto, {"x": x.numpy()}), model(x), rtol=1e-5, atol=1e-5)


def test_torch_compiles_it_whole() -> None:
    model, x = _Layer(True), _x(3, 256, torch.float32, torch.device("cpu"))
    torch.testing.assert_close(torch.compile(model, backend="eager", fullgraph=True)(x), model(x))


def _run(model: object, feeds: dict[str, np.ndarray]) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(),  # type: ignore[attr-defined]
        providers=["CPUExecutionProvider"],
    )
    return session.run(None, feeds)[0]


def test_torch_accepts_the_operator() -> None:
    packed, scale, zero = _layer(12, 5, 4, True, torch.device("cpu"))
    x, bias = torch.randn(3, 12, requires_grad=True), torch.randn(5, requires_grad=True)
    torch.library.opcheck(operators.linear_int4.whole, (x, packed, scale, zero, bias))


H100 = Machine("cuda", "NVIDIA H100", (9, 0), 2**17, True)


@pytest.mark.parametrize(
    ("machine", "dtype", "sizes", "why"),
    [
        (H100, torch.bfloat16, {}, ""),
        (Machine("cuda", "Tesla T4", (7, 5), 2**16, True), torch.float16, {}, "compute capability 8.0"),
        (H100, torch.float32, {}, "bfloat16 or float16"),
        (H100, torch.bfloat16, {"rows": 65}, "more than 64 rows"),
        (H100, torch.bfloat16, {"group": 64}, "multiples of 128"),
        (H100, torch.bfloat16, {"group": 192}, "multiples of 128"),
    ],
)
def test_more_than_few_rows_in_half_precision_take_plain_torch(
    machine: Machine, dtype: torch.dtype, sizes: dict[str, int], why: str
) -> None:
    choice = operators.LINEAR.choose(Call(machine, dtype, {"rows": 17, "in": 384, "out": 64, "group": 128} | sizes))
    assert choice.form.name == ("torch" if why else "triton")
    assert why in choice.refused.get("triton", "")


@pytest.mark.parametrize(
    ("machine", "dtype", "sizes", "why"),
    [
        (H100, torch.bfloat16, {}, ""),
        (H100, torch.float16, {"rows": 16, "group": 384}, ""),
        (H100, torch.bfloat16, {"rows": 17}, "at most 16 rows"),
        (
            Machine("cuda", "NVIDIA A10", (8, 6), 99 * 1024, True),
            torch.bfloat16,
            {},
            "faster from compute capability 9.0",
        ),
        (Machine("cuda", "NVIDIA A10", (8, 6), 99 * 1024, True), torch.bfloat16, {"rows": 3}, "has less"),
    ],
)
def test_the_fewest_rows_take_cuda_on_hopper(
    machine: Machine, dtype: torch.dtype, sizes: dict[str, int], why: str
) -> None:
    choice = operators.LINEAR.choose(Call(machine, dtype, {"rows": 1, "in": 384, "out": 64, "group": 128} | sizes))
    assert choice.form.name == ("triton" if why else "cuda")
    assert why in choice.refused.get("cuda", "")


def test_the_registry_tells() -> None:
    packed, scale, zero = _layer(256, 5, 128, True, torch.device("cpu"))
    why = registry.why("linear_int4", torch.ones(3, 256), packed, scale, zero)
    assert "rows 3, in 256, out 5, group 128; float32 on cpu" in why


def test_a_result_that_fits_nowhere_is_refused_before_it_is_begun() -> None:
    x, packed = torch.ones(1, 2).expand(2**21, 2), torch.ones(1, 1, dtype=torch.uint8).expand(2**21, 1)
    with pytest.raises(MemoryError, match=r"linear_int4 needs 17592\.\d+ GB"):
        linear_int4(x, packed, torch.ones(1, 1).expand(2**21, 1))


X, W, S = torch.ones(3, 8), torch.ones(5, 4, dtype=torch.uint8), torch.ones(5, 2)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: pack_int4(torch.ones(2, 3)), ValueError, r"even in, got \(2, 3\)"),
        (lambda: pack_int4(torch.full((2, 2), 16)), ValueError, r"0\.\.15, got 16\.\.16"),
        (lambda: pack_int4(torch.ones(2, 2)), TypeError, "integers, got torch.float32"),
        (lambda: unpack_int4(W.int()), TypeError, "must be uint8, .* got torch.int32"),
        (lambda: unpack_int4(W[0]), ValueError, r"\(out, in / 2\), got \(4,\)"),
        (lambda: dequantize_int4(W, torch.ones(5, 3)), ValueError, r"groups of even .* in 8, got \(5, 3\)"),
        (lambda: dequantize_int4(W, S, W[:, :1]), ValueError, "as scale is"),
        (lambda: quantize_int4(torch.ones(2, 100)), ValueError, r"multiple of 128, even, got \(2, 100\)"),
        (lambda: quantize_int4(torch.ones(2, 9), group=3), ValueError, "multiple of 3, even"),
        (lambda: quantize_int4(torch.ones(2, 128).int()), TypeError, "floating point, got torch.int32"),
        (lambda: linear_int4(X[:, :7], W, S), ValueError, r"\(out, in / 2\), got \(3, 7\) and \(5, 4\)"),
        (lambda: linear_int4(X, W.int(), S), TypeError, "weight and zero must be uint8"),
        (lambda: linear_int4(X, W, S, S), TypeError, "weight and zero must be uint8"),
        (lambda: linear_int4(X.double(), W, S), TypeError, "got torch.float64, torch.float32"),
        (
            lambda: linear_int4(X, W, torch.ones(5, 3)),
            ValueError,
            r"\(5, groups\), groups of even .* in 8, got \(5, 3\)",
        ),
        (lambda: linear_int4(X, W, torch.ones(5, 8)), ValueError, "groups of even length"),
        (lambda: linear_int4(X, W, S, W[:, :1]), ValueError, r"zero must be \(5, 2\), as scale is, got \(5, 1\)"),
        (
            lambda: linear_int4(X, W, S, None, torch.ones(4)),
            ValueError,
            r"bias must be \(5,\) torch.float32, got \(4,\)",
        ),
        (lambda: linear_int4(X, W.to("meta"), S), ValueError, "must be on cpu, where x is"),
    ],
)
def test_what_is_no_layer_is_refused(call: object, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        call()  # type: ignore[operator]
