"""Fake quantization: the formula, its gradients, and the same numbers from the exported graph."""

from typing import Any

import numpy as np
import onnx_ir
import pytest
import torch
from torch import Tensor, nn

from passes.fake_quant import FakeQuantize, Grid, dequantize, fake_quantize, translations
from passes.onnxruntime import Session
from passes.torch_level.operator_library import operators_read_once

WIDE = [Grid(bits, signed, symmetric) for bits in (8, 4) for signed in (True, False) for symmetric in (True, False)]
GRIDS = [*WIDE, Grid(8, narrow=True), Grid(4, narrow=True)]
each_grid = pytest.mark.parametrize("grid", GRIDS, ids=str)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def quantizer(grid: Grid, x: Tensor, axis: int | None = None, *, learned: bool = False) -> FakeQuantize:
    rows = x.reshape(1, -1) if axis is None else x.movedim(axis, 0).reshape(x.shape[axis], -1)
    scale, zero = grid.covering(rows.amin(1) / 2, rows.amax(1) / 2)  # half of the range: some values are cut off
    if axis is None:
        scale, zero = scale[0], zero[0]
    return FakeQuantize(grid, scale, zero, axis or 0, learned=learned)


@each_grid
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_values_lie_on_the_grid_and_the_nearest_is_taken(grid: Grid, axis: int | None) -> None:
    x = noise(6, 5, 7)
    layer = quantizer(grid, x, axis)
    y = layer(x)
    scale, zero = (t if axis is None else t.reshape([-1 if d == axis else 1 for d in range(3)])
                   for t in (layer.scale, layer.zero_point))  # fmt: skip
    points = torch.arange(grid.low, grid.high + 1).reshape(-1, 1, 1, 1)
    nearest = ((points - zero) * scale - x).abs().amin(0)
    torch.testing.assert_close((y - x).abs(), nearest, rtol=0, atol=1e-6)
    assert torch.equal((layer.integers(x).to(torch.int32) - zero) * scale, y)
    assert torch.equal(layer.eval()(x), layer.train()(x))
    assert float(fake_quantize(torch.zeros(1), torch.ones(()), torch.tensor(3), 0, 255, 0)) == 0, "zero is a grid point"


@each_grid
def test_a_grid_covers_its_range_with_zero_in_it(grid: Grid) -> None:
    for low, high in ((-1.0, 3.0), (0.5, 2.0), (-3.0, -1.0), (0.0, 0.0)):
        scale, zero = grid.covering(torch.tensor(low), torch.tensor(high))
        assert grid.low <= int(zero) <= grid.high
        reach = [(q - int(zero)) * float(scale) for q in (grid.low, grid.high)]
        step = float(scale)
        assert reach[0] <= min(low, 0) + step
        assert reach[1] >= max(high, 0) - step
        if grid.symmetric:
            assert int(zero) == (0 if grid.signed else 2 ** (grid.bits - 1))
            assert reach[1] == pytest.approx(max(-low, high), rel=1e-5, abs=1e-30)
    assert grid.high - grid.low == 2**grid.bits - 1 - grid.narrow


def test_the_gradient_goes_straight_through_what_is_inside() -> None:
    x = torch.tensor([-9.0, -0.3, 0.0, 0.26, 9.0], requires_grad=True)
    layer = FakeQuantize(Grid(4), torch.tensor(0.1), torch.tensor(0))
    (layer(x) * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 2.0, 3.0, 4.0, 0.0]
    assert not list(layer.parameters())


@pytest.mark.parametrize("axis", [None, 1])
@pytest.mark.parametrize("grid", [Grid(4), Grid(8, signed=False, symmetric=False)], ids=str)
def test_a_learned_scale_has_the_gradient_of_its_paper(grid: Grid, axis: int | None) -> None:
    """Esser et al. 2020, section 2.1, written with detach as in its appendix, in float64 sums."""
    x = noise(4, 3, 5).requires_grad_()
    layer = quantizer(grid, x.detach(), axis, learned=True)
    upstream = noise(4, 3, 5, seed=1)
    (layer(x) * upstream).sum().backward()

    s = layer.scale.detach().clone().requires_grad_()
    g = 1 / (x.numel() / s.numel() * grid.high) ** 0.5
    scaled = (s * g) + (s - s * g).detach()
    along = scaled if axis is None else scaled.reshape(1, -1, 1)
    zero = layer.zero_point.int() if axis is None else layer.zero_point.int().reshape(1, -1, 1)
    v = x.detach() / along
    clipped = v.clamp(grid.low - zero, grid.high - zero)
    rounded = clipped + (torch.round(clipped) - clipped).detach()
    (rounded * along * upstream).sum().backward()
    assert isinstance(layer.scale, nn.Parameter)
    torch.testing.assert_close(layer.scale.grad, s.grad, rtol=1e-4, atol=1e-5)


def test_a_learned_scale_that_falls_below_zero_still_is_one() -> None:
    layer = FakeQuantize(Grid(8), torch.tensor(-0.5), torch.tensor(0), learned=True)
    assert layer(torch.tensor([0.6, 1.3])).tolist() == [0.5, 1.5]


class Layer(nn.Module):
    def __init__(self, quantizer: FakeQuantize, weight: Tensor) -> None:
        super().__init__()
        self.quantizer = quantizer
        self.register_buffer("q", weight)
        self.register_buffer("scale", torch.rand(len(weight), generator=torch.Generator().manual_seed(1)) + 0.1)
        self.register_buffer("zero", torch.zeros(len(weight), dtype=torch.int8))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(self.quantizer(x), dequantize(self.q, self.scale, self.zero, 0))


@pytest.mark.filterwarnings("ignore:.isinstance.treespec")
@pytest.mark.parametrize(
    ("axis", "learned"), [(None, False), pytest.param(0, True, marks=pytest.mark.slow)], ids=["one scale", "learned"]
)
@pytest.mark.parametrize(
    "grid",
    [pytest.param(g, marks=() if g in (WIDE[0], GRIDS[-1]) else pytest.mark.slow) for g in GRIDS],
    ids=str,
)
def test_the_exported_graph_gives_the_same_numbers(grid: Grid, axis: int | None, learned: bool) -> None:
    x = noise(3, 6) * 2
    module = Layer(quantizer(grid, x, axis, learned=learned), torch.arange(-12, 12).reshape(4, 6).to(torch.int8)).eval()
    with torch.no_grad(), operators_read_once():
        program = torch.export.export(module, (x,))
        exported: Any = torch.onnx.export(program, (), dynamo=True, opset_version=18, optimize=False, verbose=False,
                                          custom_translation_table=translations())  # fmt: skip
        want = module(x).numpy()
    graph = exported.model.graph
    kinds = [node.op_type for node in graph]
    assert kinds.count("QuantizeLinear") == 1
    assert kinds.count("DequantizeLinear") == 2
    assert ("Min" in kinds) is (grid.bits < 8 or grid.narrow)
    for optimize in (False, True):
        session = Session(onnx_ir.to_proto(exported.model).SerializeToString(), optimize=optimize)
        (have,) = session({graph.inputs[0].name: x.numpy()}).values()
        np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-5)
