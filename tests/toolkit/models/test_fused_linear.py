"""Equal to a linear layer and its activation, in value, gradient and, in int8, to what eight bits hold."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from kernels import registry
from toolkit.models.blueprints.config import parse
from toolkit.models.blueprints.fused_linear import Config, FusedLinear, ServedLinear, build, served

ACTIVATIONS = {None: nn.Identity(), "relu": nn.ReLU(), "gelu": nn.GELU(), "silu": nn.SiLU()}
each_activation = pytest.mark.parametrize("activation", ACTIVATIONS)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def layer(activation: str | None, *, bias: bool = True, dtype: torch.dtype = torch.float32) -> FusedLinear:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FusedLinear(7, 5, activation, bias=bias).to(dtype)


def apart(fused: FusedLinear) -> nn.Sequential:
    plain = nn.Linear(7, 5, bias=fused.bias is not None).to(fused.weight.dtype)
    plain.load_state_dict(fused.state_dict())
    return nn.Sequential(plain, ACTIVATIONS[None if fused.activation == "none" else fused.activation])


@each_activation
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 7), (0, 7)])
def test_values_and_gradients_are_those_of_two_layers(
    activation: str | None, bias: bool, shape: tuple[int, ...]
) -> None:
    fused = layer(activation, bias=bias)
    plain = apart(fused)
    results = []
    for model in (fused, plain):
        x = noise(*shape).requires_grad_()
        y = model(x)
        (y * noise(*y.shape, seed=1)).sum().backward()
        results.append([y, x.grad, *(p.grad for p in model.parameters())])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(fused(noise(*shape)), results[1][0], rtol=1e-6, atol=1e-6)


@each_activation
@pytest.mark.parametrize("bias", [True, False])
def test_gradcheck(activation: str | None, bias: bool) -> None:
    fused = layer(activation, bias=bias, dtype=torch.float64)
    parameters = [p for p in (fused.weight, fused.bias) if p is not None]

    def run(x: Tensor, *_: Tensor) -> Tensor:
        return fused(x)

    assert torch.autograd.gradcheck(run, (noise(4, 7, dtype=torch.float64).requires_grad_(), *parameters))


@each_activation
def test_one_sum_is_held_for_the_way_back(activation: str | None) -> None:
    fused, x = layer(activation), noise(100, 7).requires_grad_()
    held = []
    with saved_tensors_hooks(lambda t: held.append(t.shape) or t, lambda t: t):
        fused(x)
    assert sorted(held) == sorted([x.shape, fused.weight.shape, (100, 5)])


@pytest.mark.parametrize("frozen", ["weight", "bias", "x"])
def test_what_needs_no_gradient_gets_none(frozen: str) -> None:
    fused, x = layer("gelu"), noise(3, 7).requires_grad_(frozen != "x")
    if frozen != "x":
        getattr(fused, frozen).requires_grad_(False)
    fused(x).sum().backward()
    found = {"x": x.grad, "weight": fused.weight.grad, "bias": fused.bias.grad}
    assert [name for name, gradient in found.items() if gradient is None] == [frozen]


@each_activation
def test_gradients_under_autocast_are_those_of_two_layers(activation: str | None) -> None:
    fused = layer(activation)
    results = []
    for model in (fused, apart(fused)):
        x = noise(6, 7).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            y = model(x)
        y.float().square().sum().backward()
        assert y.dtype == torch.bfloat16
        results.append([y.float(), x.grad, *(p.grad for p in model.parameters())])
        assert all(g is not None and g.dtype == torch.float32 for g in results[-1])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=0.05, atol=0.05)  # 8 bits of mantissa, several roundings


@each_activation
@pytest.mark.parametrize("shape", [(3, 7), (2, 3, 7)])
def test_in_int8_it_is_what_eight_bits_hold(activation: str | None, shape: tuple[int, ...]) -> None:
    fused = layer(activation).eval()
    eight = served(fused)
    assert isinstance(eight, ServedLinear)
    x = noise(*shape)
    before = nn.functional.linear(x, fused.weight, fused.bias)
    step = (x.abs().amax(-1, keepdim=True) * fused.weight.abs().sum(1) + x.abs().sum(-1, keepdim=True)
            * fused.weight.abs().amax(1)) / 254 * 1.02  # half a step of each operand of each product  # fmt: skip
    slope_at_most = 1.13  # of gelu; silu 1.10, relu 1
    error = (eight(x) - ACTIVATIONS[activation](before)).abs()
    assert (error <= slope_at_most * step).all()
    assert error.max() > 0
    assert eight(x.half()).dtype == torch.float16


def test_a_served_network_answers_like_the_one_it_was_made_of() -> None:
    model = build(parse(Config, {"activation": "silu"}))
    eight, x = served(model), noise(8, 30, 6)
    wanted, found = model(x), eight(x)
    assert 10 * torch.log10(wanted.square().sum() / (found - wanted).square().sum()) >= 30
    block = eight.get_submodule("block")
    assert isinstance(block.get_submodule("widen"), ServedLinear)
    assert isinstance(model.get_submodule("block.widen"), FusedLinear), "what was made is a copy"
    weights = [
        t for n, t in eight.state_dict().items() if n.startswith("block.") and n.endswith("weight") and t.ndim > 1
    ]
    assert {w.dtype for w in weights} == {torch.int8}


def test_its_kernel_is_the_one_of_the_registry() -> None:
    eight = served(layer("gelu"))
    assert isinstance(eight, ServedLinear)
    x = torch.zeros(4, 7, dtype=torch.int8)
    assert registry.choose("linear_w8a8", x, eight.weight).form.name in ("torch", "triton")


@pytest.mark.parametrize("make", [layer, lambda activation: served(layer(activation))], ids=["float", "int8"])
@each_activation
def test_exported_it_is_plain_operators(make: object, activation: str | None) -> None:
    module = make(activation).eval()  # type: ignore[operator]
    with torch.no_grad():
        graph = torch.export.export(module, (noise(3, 7),)).graph
    called = {str(node.target) for node in graph.nodes if node.op == "call_function"}
    assert called
    assert all(name.startswith("aten.") for name in called if "getitem" not in name), called


def test_gradients_reach_every_parameter() -> None:
    model = build().train()
    model(noise(4, 20, 6)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown activation 'tanh'; known: none, relu, gelu, silu"):
        FusedLinear(2, 2, "tanh")
